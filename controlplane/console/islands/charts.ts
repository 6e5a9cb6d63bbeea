// Usage charts. Markup: <div data-chart data-url="…" data-kind="percent|bytes|rate" data-label="CPU">; the URL answers
// {"at": [unix…], "series": [{"name": …, "values": [number|null…]}], "limit": number|null}. Gaps stay gaps.
import uPlot from "uplot";

const sync = uPlot.sync("usage");

interface Answer {
  at: number[];
  series: { name: string; values: (number | null)[] }[];
  limit: number | null;
}

function bytes(value: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let index = 0;
  while (Math.abs(value) >= 1024 && index < units.length - 1) {
    value /= 1024;
    index += 1;
  }
  return `${value.toFixed(value < 10 && index > 0 ? 1 : 0)} ${units[index]}`;
}

const FORMAT: Record<string, (value: number) => string> = {
  percent: (value) => `${value.toFixed(value > 0 && value < 10 ? 1 : 0)} %`,
  bytes,
  rate: (value) => `${bytes(value)}/s`,
};

// 24-hour clock, day before month: [increment, format, and what is added at a new year, month, day, hour, minute, second], mode.
const CLOCK: (string | number | null)[][] = [
  [86400, "{D} {MMM}", "\n{YYYY}", null, null, null, null, null, 1],
  [60, "{HH}:{mm}", "\n{D} {MMM} {YYYY}", null, "\n{D} {MMM}", null, null, null, 1],
  [1, "{HH}:{mm}:{ss}", "\n{D} {MMM} {YYYY}", null, "\n{D} {MMM}", null, null, null, 1],
];

class Chart {
  private plot: uPlot | null = null;
  private limit: number | null = null;

  constructor(private readonly box: HTMLElement) {
    new ResizeObserver(() => this.plot?.setSize({ width: box.clientWidth, height: this.height() })).observe(box);
    new MutationObserver(() => void this.load(true)).observe(document.documentElement, {
      attributes: true,
      attributeFilter: ["data-bs-theme"],
    });
    void this.load(false);
    setInterval(() => document.visibilityState === "visible" && void this.load(false), 10_000);
  }

  private height(): number {
    return Number(this.box.dataset.height ?? 160);
  }

  private async load(redraw: boolean): Promise<void> {
    const answer = await fetch(this.box.dataset.url ?? "");
    if (!answer.ok) return;
    const data = (await answer.json()) as Answer;
    this.limit = data.limit;
    this.box.classList.toggle("chart-empty", data.at.length === 0);
    const table = [data.at, ...data.series.map((series) => series.values)] as uPlot.AlignedData;
    if (this.plot && !redraw && this.plot.series.length === data.series.length + 1) this.plot.setData(table);
    else this.draw(data, table);
    this.describe(data);
  }

  private draw(data: Answer, table: uPlot.AlignedData): void {
    this.plot?.destroy();
    const style = getComputedStyle(document.documentElement);
    const colour = (name: string): string => style.getPropertyValue(name).trim();
    const format = FORMAT[this.box.dataset.kind ?? "percent"] ?? FORMAT.percent!;
    const axis = { stroke: colour("--chart-text"), grid: { stroke: colour("--chart-grid"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
    this.plot = new uPlot(
      {
        width: this.box.clientWidth,
        height: this.height(),
        cursor: { sync: { key: sync.key }, points: { size: 6 } },
        legend: { show: data.series.length > 1 },
        scales: { y: { range: (_plot, _low, high) => [0, Math.max(high * 1.15, this.limit ?? 0, this.box.dataset.kind === "percent" ? 1 : 1024)] } },
        series: [
          { value: "{YYYY}-{MM}-{DD} {HH}:{mm}:{ss}" },
          ...data.series.map((series, index) => ({
            label: series.name,
            stroke: colour(`--chart-${(index % 4) + 1}`),
            fill: index === 0 ? colour("--chart-fill") : undefined,
            width: 1.5,
            points: { show: false },
            value: (_plot: uPlot, value: number | null) => (value === null ? "–" : format(value)),
          })),
        ],
        axes: [
          { ...axis, space: 70, values: CLOCK as uPlot.Axis.Values },
          { ...axis, size: 62, values: (_plot, ticks) => ticks.map(format) },
        ],
        hooks: { draw: [(plot) => this.drawLimit(plot, colour("--state-failed"))] },
      },
      table,
      this.box,
    );
  }

  private drawLimit(plot: uPlot, colour: string): void {
    if (!this.limit) return;
    const y = plot.valToPos(this.limit, "y", true);
    plot.ctx.save();
    plot.ctx.strokeStyle = colour;
    plot.ctx.setLineDash([4, 4]);
    plot.ctx.beginPath();
    plot.ctx.moveTo(plot.bbox.left, y);
    plot.ctx.lineTo(plot.bbox.left + plot.bbox.width, y);
    plot.ctx.stroke();
    plot.ctx.restore();
  }

  // The same in words, for those who do not see the picture.
  private describe(data: Answer): void {
    const format = FORMAT[this.box.dataset.kind ?? "percent"] ?? FORMAT.percent!;
    const latest = data.series.map((series) => {
      const value = series.values.at(-1);
      return `${series.name} ${value === null || value === undefined ? "unknown" : format(value)}`;
    });
    this.box.setAttribute("role", "img");
    this.box.setAttribute("aria-label", `${this.box.dataset.label ?? "Usage"}: ${latest.join(", ") || "no data yet"}`);
    const now = document.querySelector<HTMLElement>(`[data-chart-now="${this.box.dataset.label ?? ""}"]`);
    if (now) now.textContent = data.at.length && latest.length === 1 && latest[0] ? latest[0].split(" ").slice(1).join(" ") : "";
  }
}

for (const box of document.querySelectorAll<HTMLElement>("[data-chart]")) new Chart(box);
