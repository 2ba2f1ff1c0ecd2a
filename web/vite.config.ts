import { svelte } from "@sveltejs/vite-plugin-svelte";
import { PurgeCSS } from "purgecss";
import { defineConfig, type Plugin } from "vite";

/** Clarity's rules that no file of ours uses are left out, and its embedded font: the system's is as good and free. */
function onlyUsedRules(): Plugin {
  return {
    name: "only-used-rules",
    enforce: "pre",
    async transform(code, id) {
      if (!id.includes("@clr/ui")) return null;
      const [purged] = await new PurgeCSS().purge({
        content: ["index.html", "src/**/*.svelte", "src/**/*.ts"],
        css: [{ raw: code.replace(/@font-face\{[^}]*\}/g, "") }],
        safelist: [/cds-theme/],
        variables: true,
      });
      return { code: purged?.css ?? "", map: null };
    },
  };
}

export default defineConfig({
  plugins: [onlyUsedRules(), svelte()],
  build: {
    outDir: "../src/kvmove/manager/web_dist",
    emptyOutDir: true,
    modulePreload: { polyfill: false },
    assetsInlineLimit: 0,
    target: "es2022",
  },
});
