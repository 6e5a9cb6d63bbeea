// A shell in a container, in xterm.js. Markup: <div data-terminal data-container="…" data-command="…">.
import { FitAddon } from "@xterm/addon-fit";
import { SearchAddon } from "@xterm/addon-search";
import { Terminal } from "@xterm/xterm";
import { ByteStream } from "./stream";

function palette(): Record<string, string> {
  const style = getComputedStyle(document.documentElement);
  const value = (name: string): string => style.getPropertyValue(name).trim();
  return { background: value("--term-bg"), foreground: value("--term-fg"), cursor: value("--term-cursor"), selectionBackground: value("--term-selection") };
}

// xterm.js makes <style> elements of its own; under our CSP they need the page's nonce.
function nonceStyles(): void {
  const nonce = document.querySelector<HTMLScriptElement>("script[nonce]")?.nonce;
  if (!nonce) return;
  const create = document.createElement.bind(document);
  document.createElement = ((name: string, options?: ElementCreationOptions) => {
    const element = create(name, options);
    if (name.toLowerCase() === "style") element.nonce = nonce;
    return element;
  }) as typeof document.createElement;
}

class Shell {
  private readonly terminal: Terminal;
  private readonly fit = new FitAddon();
  private readonly search = new SearchAddon();
  private stream: ByteStream | null = null;

  constructor(private readonly box: HTMLElement) {
    const reduced = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.terminal = new Terminal({
      fontFamily: "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace",
      fontSize: 13,
      cursorBlink: !reduced,
      scrollback: 10000,
      screenReaderMode: false,
      theme: palette(),
      allowProposedApi: false,
    });
    // A container must not set the window's title, reach the clipboard or plant links.
    for (const code of [0, 1, 2, 8, 52]) this.terminal.parser.registerOscHandler(code, () => true);
    this.terminal.loadAddon(this.fit);
    this.terminal.loadAddon(this.search);
    this.terminal.open(box);
    this.terminal.onData((data) => this.stream?.write(data));
    this.terminal.onResize(({ rows, cols }) => {
      box.dataset.size = `${rows} ${cols}`;
      this.stream?.resize(rows, cols);
    });
    this.fit.fit();
    new ResizeObserver(() => this.fit.fit()).observe(box);
    new MutationObserver(() => (this.terminal.options.theme = palette())).observe(document.documentElement, {
      attributes: true,
      attributeFilter: ["data-bs-theme"],
    });
  }

  find(text: string): void {
    this.search.findNext(text);
  }

  async start(): Promise<void> {
    this.state("working", "connecting");
    this.terminal.reset();
    const stream = new ByteStream({
      opened: () => {
        this.state("running", "connected");
        this.stream?.resize(this.terminal.rows, this.terminal.cols);
        this.terminal.focus();
      },
      data: (_channel, _source, payload) => this.terminal.write(payload),
      exit: (code, error) => this.state("stopped", error || (code === null ? "ended" : `exited with code ${code}`)),
      lost: (reason) => this.state("failed", reason),
    });
    this.stream?.close();
    this.stream = stream;
    await stream.open({
      target: "exec",
      container: this.box.dataset.container,
      args: {
        command: (this.box.dataset.command ?? "/bin/sh").split(" "),
        user: this.box.dataset.user ?? "",
        tty: true,
        stdin: true,
        rows: this.terminal.rows,
        cols: this.terminal.cols,
      },
    });
  }

  private state(name: string, text: string): void {
    const label = document.querySelector<HTMLElement>("[data-terminal-state]");
    if (!label) return;
    label.dataset.state = name;
    label.textContent = text;
    const again = document.querySelector<HTMLElement>("[data-terminal-start]");
    if (again) again.hidden = name === "running" || name === "working";
  }
}

const box = document.querySelector<HTMLElement>("[data-terminal]");
if (box) {
  nonceStyles();
  const shell = new Shell(box);
  const form = document.querySelector<HTMLFormElement>("[data-terminal-form]");
  form?.addEventListener("submit", (event) => {
    event.preventDefault();
    const fields = new FormData(form);
    box.dataset.command = String(fields.get("command") || "/bin/sh");
    box.dataset.user = String(fields.get("user") ?? "");
    void shell.start();
  });
  document.querySelector<HTMLInputElement>("[data-terminal-search]")?.addEventListener("keydown", (event) => {
    if (event.key === "Enter") shell.find((event.target as HTMLInputElement).value);
  });
  void shell.start();
}
