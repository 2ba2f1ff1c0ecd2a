/** Asks the manager. Every failure becomes an `ApiError` with a sentence for people; nothing is tried twice. */
import type { Finding, Session } from "./types";

export interface Problem {
  status: number;
  title: string;
  detail: string;
  hint: string;
  code: string;
  vm_state: string;
  checks?: Finding[];
}

export class ApiError extends Error {
  constructor(readonly problem: Problem) {
    super(problem.detail);
  }
}

export const MARK = "X-Kvmove-Mark";
let mark = "";
let onLoggedOut = (): void => {};

/** What each change carries from now on; see the manager's sessions. */
export function useMark(given: string): void {
  mark = given;
}

/** What happens when the manager knows the session no more. */
export function whenLoggedOut(act: () => void): void {
  onLoggedOut = act;
}

export function get<T>(path: string): Promise<T> {
  return ask<T>("GET", path);
}

export function post<T>(path: string, body?: unknown): Promise<T> {
  return ask<T>("POST", path, body);
}

export function patch<T>(path: string, body: unknown): Promise<T> {
  return ask<T>("PATCH", path, body);
}

export async function logIn(name: string, token: string): Promise<Session> {
  return ask<Session>("POST", "/session", { name, token });
}

export async function logOut(): Promise<void> {
  await ask("DELETE", "/session");
}

/** An error in words, whatever it is. */
export function told(error: unknown): Problem {
  if (error instanceof ApiError) return error.problem;
  return nothing(0, "No answer", error instanceof Error ? error.message : String(error));
}

async function ask<T>(method: string, path: string, body?: unknown): Promise<T> {
  const headers: Record<string, string> = method === "GET" ? {} : { [MARK]: mark };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const sent = body === undefined ? null : JSON.stringify(body);
  let answer: Response;
  try {
    answer = await fetch(`/api/v1${path}`, { method, headers, body: sent, credentials: "same-origin" });
  } catch {
    throw new ApiError(nothing(0, "No answer", "the manager does not answer", "it is asked again when it is back"));
  }
  if (answer.ok) return (answer.status === 204 ? undefined : await answer.json()) as T;
  const problem = await problemOf(answer);
  if (answer.status === 401 && path !== "/session") onLoggedOut();
  throw new ApiError(problem);
}

async function problemOf(answer: Response): Promise<Problem> {
  const empty = nothing(answer.status, answer.statusText, `the manager answered ${answer.status}`);
  try {
    return { ...empty, ...((await answer.json()) as Partial<Problem>) };
  } catch {
    return empty;
  }
}

function nothing(status: number, title: string, detail: string, hint = ""): Problem {
  return { status, title, detail, hint, code: "", vm_state: "" };
}
