// Builds the console's scripts and styles into ../static/vendor and ../static/console, with a manifest of versions, licences and hashes.
import { createHash } from "node:crypto";
import { copyFileSync, mkdirSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const root = join(here, "../../..");
const modules = join(root, "node_modules");
const vendor = join(here, "../static/vendor");
const bundles = join(here, "../static/console/js");
const styles = join(here, "../styles");
const sheets = join(here, "../static/console/css");

for (const directory of [vendor, bundles, sheets]) {
  rmSync(directory, { recursive: true, force: true });
  mkdirSync(directory, { recursive: true });
}

const copies = [
  ["@tabler/core", "dist/css/tabler.min.css", "tabler.min.css"],
  ["htmx.org", "dist/htmx.min.js", "htmx.min.js"],
  ["idiomorph", "dist/idiomorph-ext.min.js", "idiomorph-ext.min.js"],
  ["@xterm/xterm", "css/xterm.css", "xterm.css"],
  ["uplot", "dist/uPlot.min.css", "uplot.min.css"],
];
for (const [name, from, to] of copies) {
  copyFileSync(join(modules, name, from), join(vendor, to));
}

// A sprite of just the icons that the console shows.
const icons = JSON.parse(readFileSync(join(here, "icons.json"), "utf8"));
const symbols = icons.map((name) => {
  const svg = readFileSync(join(modules, "@tabler/icons/icons/outline", `${name}.svg`), "utf8");
  const body = svg.slice(svg.indexOf(">", svg.indexOf("<svg")) + 1, svg.lastIndexOf("</svg>"));
  return `<symbol id="${name}" viewBox="0 0 24 24">${body.replace(/\s*\n\s*/g, "")}</symbol>`;
});
writeFileSync(join(vendor, "icons.svg"), `<svg xmlns="http://www.w3.org/2000/svg">${symbols.join("")}</svg>\n`);

await build({
  entryPoints: ["console.ts", "terminal.ts", "logs.ts", "charts.ts"].map((file) => join(here, file)),
  outdir: bundles,
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  legalComments: "none",
  nodePaths: [modules],
});

// One stylesheet, and so one request, from one file a noun.
await build({
  entryPoints: [join(styles, "console.css")],
  outdir: sheets,
  bundle: true,
  minify: true,
  charset: "utf8",
  legalComments: "none",
});

const packages = Object.keys(JSON.parse(readFileSync(join(root, "package.json"), "utf8")).dependencies);
const manifest = {
  packages: Object.fromEntries(
    packages.map((name) => {
      const { version, license } = JSON.parse(readFileSync(join(modules, name, "package.json"), "utf8"));
      return [name, { version, license }];
    }),
  ),
  sources: Object.fromEntries(
    [here, styles].flatMap((directory) =>
      readdirSync(directory)
        .filter((file) => /\.(ts|mjs|json|css)$/.test(file))
        .sort()
        .map((file) => [file, createHash("sha256").update(readFileSync(join(directory, file))).digest("hex")]),
    ),
  ),
  files: Object.fromEntries(
    [[vendor, "vendor"], [bundles, "console/js"], [sheets, "console/css"]].flatMap(([directory, prefix]) =>
      readdirSync(directory)
        .sort()
        .map((file) => [`${prefix}/${file}`, createHash("sha256").update(readFileSync(join(directory, file))).digest("hex")]),
    ),
  ),
};
writeFileSync(join(vendor, "manifest.json"), `${JSON.stringify(manifest, null, 2)}\n`);
