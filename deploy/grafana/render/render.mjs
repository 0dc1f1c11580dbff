// node render.mjs PROMETHEUS_URL OUT_FOLDER [MINUTES]: a picture for each group of the dashboard's rows.
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { build } from 'esbuild';
import { chromium } from 'playwright-core';

const CHROMIUM = '/usr/bin/chromium';
const PICTURES = {
  'dashboard.png': ['Overview', 'Traffic', 'Sessions', 'Errors'],
  'dashboard-below.png': ['Quota', 'Latency', 'Workers and reloads'],
};
const CELL = 32; // pixels of a row and of a column of the grid
const COLUMN = 50;

const here = import.meta.dirname;
const [url, out, minutes = '10'] = process.argv.slice(2);
if (!out) throw new Error('usage: node render.mjs PROMETHEUS_URL OUT_FOLDER [MINUTES]');
if (!existsSync(CHROMIUM)) throw new Error(`${CHROMIUM} is missing`);
const dashboard = JSON.parse(readFileSync(join(here, '../forkd.json'), 'utf8'));
const to = Math.floor(Date.now() / 1000);
const from = to - Number(minutes) * 60;
const step = Math.max(2, Math.round((to - from) / 150));

async function ask(path, query) {
  const answer = await fetch(`${url}/api/v1/${path}?${new URLSearchParams(query)}`);
  const { status, data, error } = await answer.json();
  if (status !== 'success') throw new Error(`${query.query}: ${error}`);
  return data.result;
}

/** The series of a target: {name, times in milliseconds, values}. */
async function series({ expr, legendFormat, instant }) {
  const query = expr.replaceAll('$__rate_interval', '1m').replaceAll(/\$(job|instance)/g, '.*');
  const found = instant
    ? await ask('query', { query, time: to })
    : await ask('query_range', { query, start: from, end: to, step });
  return found.map(({ metric, value, values = [value] }) => ({
    name: legendFormat.replaceAll(/\{\{(\w+)\}\}/g, (_, label) => metric[label] ?? ''),
    times: values.map(([seconds]) => seconds * 1000),
    values: values.map(([, number]) => (number === 'NaN' ? null : Number(number))),
  }));
}

/** The panels below these rows, moved to the top of a picture. */
function below(rows) {
  let taken = false;
  const panels = dashboard.panels.filter((panel) => {
    if (panel.type === 'row') taken = rows.includes(panel.title);
    return taken;
  });
  const top = Math.min(...panels.map((panel) => panel.gridPos.y));
  return panels.map((panel) => ({ ...panel, gridPos: { ...panel.gridPos, y: panel.gridPos.y - top } }));
}

const { outputFiles } = await build({
  entryPoints: [join(here, 'panels.jsx')],
  bundle: true,
  write: false,
  outdir: here,
  format: 'iife',
  jsx: 'automatic',
  minify: true,
  define: { 'process.env.NODE_ENV': '"production"', global: 'window' },
  loader: { '.svg': 'dataurl', '.png': 'dataurl', '.woff2': 'empty', '.ttf': 'empty' },
  logLevel: 'error',
});
const script = outputFiles.find((file) => file.path.endsWith('.js')).text;
const styles = outputFiles.find((file) => file.path.endsWith('.css'))?.text ?? '';
const html = `<!doctype html><style>${styles} body { margin: 0; background: #f4f5f5; font: 14px sans-serif; color: #24292e }
  *, *::before, *::after { box-sizing: border-box }</style><div id="root"></div>`;
const browser = await chromium.launch({ executablePath: CHROMIUM, args: ['--no-sandbox'] });
try {
  for (const [name, rows] of Object.entries(PICTURES)) {
    const panels = below(rows);
    for (const panel of panels) panel.series = (await Promise.all((panel.targets ?? []).map(series))).flat();
    const height = Math.max(...panels.map(({ gridPos }) => gridPos.y + gridPos.h)) * CELL;
    const page = await browser.newPage({ viewport: { width: 24 * COLUMN, height } });
    page.on('pageerror', (error) => console.error(String(error.stack ?? error).slice(0, 600)));
    // nothing is fetched: the one page there is comes from here
    await page.route('**/*', (route) => route.fulfill({ contentType: 'text/html', body: html }));
    await page.goto('http://localhost/');
    await page.evaluate((scene) => (window.scene = scene), { panels, from: from * 1000, to: to * 1000, cell: CELL, columns: COLUMN });
    await page.addScriptTag({ content: script });
    await page.waitForFunction((count) => document.querySelectorAll('.uplot canvas').length >= count,
      panels.filter(({ type }) => type === 'timeseries').length, { timeout: 30_000 });
    await page.waitForTimeout(500); // the fonts and the last frame
    await page.screenshot({ path: join(out, name) });
    console.log(join(out, name));
  }
} finally {
  await browser.close();
}
