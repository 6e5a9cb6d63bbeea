// The frame: theme, drawer, shortcuts, copying, ages, and the live socket that tells which fragments are stale.

import { drafts, restore } from "./drafts";
import { nameTableParts } from "./tables";

const root = document.documentElement;

function setTheme(theme: string): void {
  root.dataset.bsTheme = theme;
  localStorage.setItem("wharf-theme", theme);
}

function wireTheme(): void {
  document.querySelector("[data-theme-toggle]")?.addEventListener("click", () => {
    setTheme(root.dataset.bsTheme === "dark" ? "light" : "dark");
  });
}

function wireDrawer(): void {
  const button = document.querySelector<HTMLButtonElement>("[data-drawer-toggle]");
  const rail = document.getElementById("rail");
  if (!button || !rail) return;
  const open = (value: boolean): void => {
    document.body.classList.toggle("drawer-open", value);
    button.setAttribute("aria-expanded", String(value));
    if (value) rail.querySelector<HTMLElement>("a")?.focus();
  };
  button.addEventListener("click", () => open(!document.body.classList.contains("drawer-open")));
  document.querySelector("[data-drawer-close]")?.addEventListener("click", () => open(false));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && document.body.classList.contains("drawer-open")) {
      open(false);
      button.focus();
    }
  });
}

// `/` and Ctrl K search, `?` help, `g` then a letter goes somewhere (the letter stands in the link's data-go).
function wireKeys(): void {
  let going = 0;
  document.addEventListener("keydown", (event) => {
    const target = event.target as HTMLElement;
    const typing = target.closest("input, textarea, select, [contenteditable], .xterm") !== null;
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
      event.preventDefault();
      focusSearch();
      return;
    }
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/") {
      event.preventDefault();
      focusSearch();
    } else if (event.key === "?") {
      document.querySelector<HTMLDialogElement>("#keys-help")?.showModal();
    } else if (event.key === "g") {
      going = Date.now();
    } else if (Date.now() - going < 1500) {
      going = 0;
      document.querySelector<HTMLAnchorElement>(`a[data-go="${CSS.escape(event.key)}"]`)?.click();
    }
  });
}

function focusSearch(): void {
  const field = document.querySelector<HTMLInputElement>("[data-search]");
  field?.focus();
  field?.select();
}

function wireCopy(): void {
  document.addEventListener("click", (event) => {
    const button = (event.target as HTMLElement).closest<HTMLElement>("[data-copy]");
    if (!button) return;
    void navigator.clipboard.writeText(button.dataset.copy ?? "").then(() => {
      button.classList.add("copied");
      announce("Copied");
      setTimeout(() => button.classList.remove("copied"), 1200);
    });
  });
}

function announce(text: string): void {
  const region = document.getElementById("announcer");
  if (region) region.textContent = text;
}

const UNITS: [number, string][] = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

export function age(seconds: number): string {
  for (const [size, unit] of UNITS) {
    if (Math.abs(seconds) >= size) return `${Math.floor(Math.abs(seconds) / size)} ${unit}`;
  }
  return "now";
}

function refreshAges(): void {
  const now = Date.now() / 1000;
  for (const element of document.querySelectorAll<HTMLTimeElement>("time[data-at]")) {
    const seconds = now - Number(element.dataset.at);
    const text = age(seconds);
    const shown = text === "now" ? text : seconds < 0 ? `in ${text}` : `${text} ago`;
    if (element.textContent !== shown) element.textContent = shown;
  }
}

// A form was sent and its answer is another page: what it removes must not be asked for on the way out.
let leaving = false;

function wireLeaving(): void {
  addEventListener("submit", (event) => {
    const form = event.target as HTMLFormElement;
    if (!event.defaultPrevented && form.method === "post") leaving = true;
  });
  addEventListener("pageshow", () => (leaving = false)); // back from the browser's page cache
}

// Somebody works inside the fragment: a new copy of it would take away what they typed, or the dialog.
function busy(fragment: Element): boolean {
  return leaving || fragment.querySelector("dialog[open], form:focus-within") !== null;
}

// Fragments with data-live="topic …" are fetched again when one of their topics changes.
function refreshFragments(topic: string): void {
  for (const element of document.querySelectorAll<HTMLElement>("[data-live]")) {
    const topics = (element.dataset.live ?? "").split(" ");
    if (topics.some((wanted) => topic === wanted || topic.startsWith(`${wanted}.`))) {
      element.dispatchEvent(new CustomEvent("stale"));
    }
  }
}

class Live {
  private delay = 500;
  private socket: WebSocket | null = null;

  connect(): void {
    if (!document.querySelector("[data-live]")) return;
    const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws/live`);
    this.socket = socket;
    socket.onopen = () => {
      const again = this.delay > 500;
      this.delay = 500;
      this.mark("on");
      const topics = new Set<string>();
      for (const element of document.querySelectorAll<HTMLElement>("[data-live]")) {
        for (const topic of (element.dataset.live ?? "").split(" ")) topics.add(topic);
      }
      socket.send(JSON.stringify({ topics: [...topics] }));
      // Whatever changed while we were away is unknown: look at everything once.
      if (again) topics.forEach((topic) => refreshFragments(topic));
    };
    socket.onmessage = (event) => {
      const { topic } = JSON.parse(String(event.data)) as { topic: string };
      refreshFragments(topic);
    };
    socket.onclose = () => {
      this.mark("off");
      this.delay = Math.min(this.delay * 2, 15000);
      setTimeout(() => this.connect(), this.delay * (0.5 + Math.random() / 2));
    };
  }

  private mark(state: string): void {
    const indicator = document.getElementById("live-state");
    if (!indicator) return;
    indicator.dataset.state = state;
    indicator.title = state === "on" ? "Live" : "Connection lost, reconnecting";
    indicator.querySelector(".visually-hidden")!.textContent = indicator.title;
  }

  close(): void {
    if (this.socket) this.socket.onclose = null;
    // one that still connects ends with the page; closing it here would be reported as a failure
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.close();
  }
}

// What the opener has in data-fill goes into the dialog's [data-filled]: one dialog serves every row of a table.
function openDialog(opener: HTMLElement): void {
  const dialog = document.querySelector<HTMLDialogElement>(`#${CSS.escape(opener.dataset.dialog ?? "")}`);
  for (const element of dialog?.querySelectorAll<HTMLElement>("[data-filled]") ?? []) {
    if (element instanceof HTMLInputElement) element.value = opener.dataset.fill ?? "";
    else element.textContent = opener.dataset.fill ?? "";
  }
  dialog?.showModal();
}

function wireDialogs(): void {
  document.addEventListener("click", (event) => {
    const target = event.target as HTMLElement;
    const opener = target.closest<HTMLElement>("[data-dialog]");
    if (opener) openDialog(opener);
    const closer = target.closest<HTMLElement>("[data-dialog-close]");
    closer?.closest("dialog")?.close();
  });
}

// Where undo does not exist the name must be typed: the button of a form[data-confirm] wakes up only then.
function wireConfirm(): void {
  document.addEventListener("input", (event) => {
    const field = event.target as HTMLInputElement;
    const form = field.closest<HTMLFormElement>("form[data-confirm]");
    const button = form?.querySelector<HTMLButtonElement>("button[type=submit]");
    if (form && button) button.disabled = field.value !== form.dataset.confirm;
  });
}

function wireRequests(): void {
  let kept: ReturnType<typeof drafts> = [];
  document.body.addEventListener("htmx:configRequest", (event) => {
    const detail = (event as CustomEvent<{ headers: Record<string, string> }>).detail;
    const token = document.querySelector<HTMLMetaElement>("meta[name=csrf-token]")?.content;
    if (token) detail.headers["X-CSRFToken"] = token;
  });
  document.body.addEventListener("htmx:beforeRequest", (event) => {
    if (busy(event.target as Element)) event.preventDefault();
  });
  document.body.addEventListener("htmx:beforeSwap", (event) => {
    const { detail } = event as CustomEvent<{ xhr: XMLHttpRequest; shouldSwap: boolean }>;
    // The session ended: the answer is the login page, not the fragment.
    if (new URL(detail.xhr.responseURL || location.href).pathname === "/login") {
      detail.shouldSwap = false;
      location.reload();
    } else if (busy(event.target as Element)) detail.shouldSwap = false; // the dialog was opened while we asked
    else kept = drafts(event.target as Element);
  });
  document.body.addEventListener("htmx:responseError", (event) => {
    const { xhr } = (event as CustomEvent<{ xhr: XMLHttpRequest }>).detail;
    const fragment = event.target as HTMLElement;
    if (xhr.status === 404 && fragment.matches("[data-live]")) {
      gone(fragment);
      return;
    }
    let text = `The server answered ${xhr.status}`;
    try {
      text = (JSON.parse(xhr.responseText) as { detail?: string }).detail ?? text;
    } catch {
      // not a problem document: the status alone is what we know
    }
    toast(text);
  });
  document.body.addEventListener("htmx:afterSwap", () => {
    restore(kept);
    kept = [];
    refreshAges();
    nameTableParts();
  });
}

// What the page shows was removed meanwhile: say so, and stop asking for it.
function gone(fragment: HTMLElement): void {
  const note = document.createElement("div");
  note.className = "why";
  note.setAttribute("role", "status");
  note.textContent = "This is not there any more.";
  fragment.replaceWith(note);
}

function toast(text: string): void {
  const box = document.getElementById("toasts");
  if (!box) return;
  const item = document.createElement("div");
  item.className = "toast-line";
  item.setAttribute("role", "alert");
  item.textContent = text;
  box.append(item);
  setTimeout(() => item.remove(), 8000);
}

wireTheme();
wireDrawer();
wireKeys();
wireCopy();
wireDialogs();
wireConfirm();
wireRequests();
wireLeaving();
refreshAges();
nameTableParts();
setInterval(refreshAges, 1000);
const live = new Live();
live.connect();
addEventListener("pagehide", () => live.close());
addEventListener("pageshow", (event) => event.persisted && live.connect()); // back from the browser's page cache
