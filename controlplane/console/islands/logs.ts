// Live logs: follow with pause on scroll, search with marks, streams and tasks coloured, a ring of 100,000 lines, 2,000 of them in the DOM.
import { ByteStream, STDERR } from "./stream";

const RING = 100_000;
const SHOWN = 2_000;
const RETRY = 2_000; // milliseconds

interface Line {
  text: string;
  time: string;
  error: boolean;
  source: number;
}

class LogView {
  private lines: Line[] = [];
  private readonly sources: string[] = [];
  private readonly partial = new Map<string, string>();
  private readonly decoder = new TextDecoder();
  private stream: ByteStream | null = null;
  private following = true;
  private query = "";
  private fresh: Line[] = [];
  private queued = false;
  private opened = ""; // when the stream was opened, in the form of the lines' times
  private mixed = false; // the past of several tasks comes one after the other: it is sorted once it is here

  constructor(private readonly box: HTMLElement) {
    box.addEventListener("scroll", () => {
      const bottom = box.scrollHeight - box.scrollTop - box.clientHeight < 24;
      if (bottom !== this.following) this.follow(bottom);
    });
  }

  follow(value: boolean): void {
    this.following = value;
    const button = document.querySelector<HTMLElement>("[data-logs-follow]");
    button?.setAttribute("aria-pressed", String(value));
    if (value) {
      this.render();
      this.box.scrollTop = this.box.scrollHeight;
    }
  }

  search(text: string): void {
    this.query = text.toLowerCase();
    this.render();
    const count = this.query ? this.lines.filter((line) => line.text.toLowerCase().includes(this.query)).length : 0;
    const label = document.querySelector<HTMLElement>("[data-logs-count]");
    if (label) label.textContent = this.query ? `${count} of ${this.lines.length} lines` : `${this.lines.length} lines`;
  }

  async start(): Promise<void> {
    let open = false;
    const stream = new ByteStream({
      opened: () => {
        open = true;
        this.state("running", "following");
      },
      source: (index, name) => (this.sources[index] = name),
      data: (channel, source, payload) => this.take(channel, source, payload),
      exit: () => this.state("stopped", "ended"),
      lost: (reason) => {
        this.state("failed", open ? `${reason}, trying again` : reason);
        // what never opened was refused: asking again would not help
        if (open) setTimeout(() => this.stream === stream && void this.retry(), RETRY);
      },
    });
    this.stream?.close();
    this.stream = stream;
    this.lines = [];
    this.opened = new Date().toISOString();
    this.box.replaceChildren();
    const { container, service, tail } = this.box.dataset;
    await stream.open({
      target: "logs",
      ...(service ? { service } : { container }),
      args: { follow: true, tail: Number(tail ?? 500), timestamps: true },
    });
  }

  // The server may still be away: ask until it answers, then begin anew with the tail.
  private async retry(): Promise<void> {
    const up = await fetch("/api/v1/health").catch(() => null);
    if (up?.ok) void this.start();
    else setTimeout(() => void this.retry(), RETRY);
  }

  private take(channel: number, source: number, payload: Uint8Array): void {
    const key = `${channel}.${source}`;
    const parts = ((this.partial.get(key) ?? "") + this.decoder.decode(payload, { stream: true })).split("\n");
    this.partial.set(key, parts.pop() ?? "");
    for (const part of parts) {
      const space = part.indexOf(" ");
      const line = { time: part.slice(0, space), text: part.slice(space + 1), error: channel === STDERR, source };
      if (line.time < this.opened && line.time < (this.lines.at(-1)?.time ?? "")) this.mixed = true;
      this.lines.push(line);
      this.fresh.push(line);
    }
    if (this.lines.length > RING) this.lines.splice(0, this.lines.length - RING);
    if (!this.queued) {
      this.queued = true;
      requestAnimationFrame(() => this.append());
    }
  }

  private append(): void {
    this.queued = false;
    const fresh = this.fresh.splice(0);
    if (!this.following) {
      const button = document.querySelector<HTMLElement>("[data-logs-new]");
      if (button) {
        button.hidden = false;
        button.textContent = "New lines below";
      }
      return;
    }
    if (this.mixed) {
      this.mixed = false;
      this.lines.sort((left, right) => (left.time < right.time ? -1 : left.time > right.time ? 1 : 0));
      this.render();
    } else {
      const wanted = fresh.slice(-SHOWN).filter((line) => this.matches(line));
      this.box.append(...wanted.map((line) => this.element(line)));
    }
    while (this.box.childElementCount > SHOWN) this.box.firstElementChild?.remove();
    this.box.scrollTop = this.box.scrollHeight;
    const label = document.querySelector<HTMLElement>("[data-logs-count]");
    if (label && !this.query) label.textContent = `${this.lines.length} lines`;
  }

  private render(): void {
    const shown = this.lines.filter((line) => this.matches(line)).slice(-SHOWN);
    this.box.replaceChildren(...shown.map((line) => this.element(line)));
    const button = document.querySelector<HTMLElement>("[data-logs-new]");
    if (button) button.hidden = true;
  }

  private matches(line: Line): boolean {
    return !this.query || line.text.toLowerCase().includes(this.query);
  }

  private element(line: Line): HTMLElement {
    const row = document.createElement("div");
    row.className = `log-line${line.error ? " log-error" : ""}`;
    const time = document.createElement("span");
    time.className = "log-time";
    time.textContent = line.time.slice(11, 23);
    time.title = line.time;
    row.append(time);
    const name = this.sources[line.source];
    if (name) {
      const source = document.createElement("span");
      source.className = `log-source log-source-${line.source % 6}`;
      source.textContent = name;
      row.append(source);
    }
    row.append(this.marked(line.text));
    return row;
  }

  private marked(text: string): HTMLElement {
    const body = document.createElement("span");
    body.className = "log-text";
    // Colour codes are dropped, not shown: text nodes only, so that no log line can become markup.
    // eslint-disable-next-line no-control-regex
    const clean = text.replace(/\x1b\[[0-9;?]*[A-Za-z]/g, "");
    const at = this.query ? clean.toLowerCase().indexOf(this.query) : -1;
    if (at < 0) {
      body.textContent = clean;
      return body;
    }
    const mark = document.createElement("mark");
    mark.textContent = clean.slice(at, at + this.query.length);
    body.append(clean.slice(0, at), mark, clean.slice(at + this.query.length));
    return body;
  }

  private state(name: string, text: string): void {
    const label = document.querySelector<HTMLElement>("[data-logs-state]");
    if (!label) return;
    label.dataset.state = name;
    label.textContent = text;
  }

  download(): void {
    const text = this.lines.map((line) => `${line.time} ${line.text}`).join("\n");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
    link.download = "logs.txt";
    link.click();
    URL.revokeObjectURL(link.href);
  }
}

const box = document.querySelector<HTMLElement>("[data-logs]");
if (box) {
  const view = new LogView(box);
  document.querySelector<HTMLInputElement>("[data-logs-search]")?.addEventListener("input", (event) => {
    view.search((event.target as HTMLInputElement).value);
  });
  document.querySelector("[data-logs-follow]")?.addEventListener("click", () => view.follow(true));
  document.querySelector("[data-logs-new]")?.addEventListener("click", () => view.follow(true));
  document.querySelector("[data-logs-download]")?.addEventListener("click", () => view.download());
  document.querySelector("[data-logs-wrap]")?.addEventListener("click", (event) => {
    const pressed = box.classList.toggle("nowrap");
    (event.currentTarget as HTMLElement).setAttribute("aria-pressed", String(!pressed));
  });
  document.querySelector<HTMLSelectElement>("[data-logs-tail]")?.addEventListener("change", (event) => {
    box.dataset.tail = (event.target as HTMLSelectElement).value;
    void view.start();
  });
  void view.start();
}
