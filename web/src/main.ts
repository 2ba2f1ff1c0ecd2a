import "@clr/ui/clr-ui.min.css";
import "uplot/dist/uPlot.min.css";
import "./page.css";
import { mount } from "svelte";
import App from "./App.svelte";

const place = document.getElementById("page");
if (place) mount(App, { target: place });
