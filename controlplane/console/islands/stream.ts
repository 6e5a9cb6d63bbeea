// A byte stream to a container: ticket by POST, then one websocket. Binary frames are [channel, source] + payload.

export const STDIN = 0;
export const STDOUT = 1;
export const STDERR = 2;

export interface StreamRequest {
  target: "logs" | "exec" | "attach";
  container?: string;
  service?: string;
  args: Record<string, unknown>;
}

export interface StreamHandlers {
  opened?(): void;
  source?(index: number, name: string): void;
  data(channel: number, source: number, payload: Uint8Array): void;
  exit(code: number | null, error: string): void;
  lost(reason: string): void;
}

export class ByteStream {
  private socket: WebSocket | null = null;
  private ended = false;

  constructor(private readonly handlers: StreamHandlers) {}

  async open(request: StreamRequest): Promise<void> {
    const token = document.querySelector<HTMLMetaElement>("meta[name=csrf-token]")?.content ?? "";
    const answer = await fetch("/api/v1/streams", {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-CSRFToken": token },
      body: JSON.stringify(request),
    });
    if (!answer.ok) {
      const problem = (await answer.json().catch(() => ({}))) as { detail?: string };
      this.handlers.lost(problem.detail ?? `the server answered ${answer.status}`);
      return;
    }
    const { ticket } = (await answer.json()) as { ticket: string };
    const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws/stream`);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    socket.onopen = () => socket.send(JSON.stringify({ ticket }));
    socket.onmessage = (event) => this.take(event.data as string | ArrayBuffer);
    socket.onclose = (event) => {
      if (!this.ended) this.handlers.lost(event.reason || "connection lost");
    };
  }

  private take(data: string | ArrayBuffer): void {
    if (typeof data !== "string") {
      const bytes = new Uint8Array(data);
      this.handlers.data(bytes[0] ?? 0, bytes[1] ?? 0, bytes.subarray(2));
      return;
    }
    const message = JSON.parse(data) as Record<string, unknown>;
    if (message.type === "opened") this.handlers.opened?.();
    else if (message.type === "source") this.handlers.source?.(Number(message.index), String(message.name));
    else if (message.type === "exit") {
      this.ended = true;
      this.handlers.exit(message.code as number | null, String(message.error ?? ""));
    } else if (message.type === "error") {
      this.ended = true;
      this.handlers.lost(String(message.detail));
    }
  }

  write(text: string): void {
    const payload = new TextEncoder().encode(text);
    const frame = new Uint8Array(payload.length + 2);
    frame[0] = STDIN;
    frame.set(payload, 2);
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(frame);
  }

  resize(rows: number, cols: number): void {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify({ type: "resize", rows, cols }));
  }

  close(): void {
    this.ended = true;
    this.socket?.close();
  }
}
