// Checks ../forkd.json against the types of @grafana/schema; prints what tsc says.
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const here = import.meta.dirname;
const dashboard = JSON.parse(readFileSync(join(here, '../forkd.json'), 'utf8'));

const { annotations, ...rest } = dashboard;
// JSON has the values of an enumeration, the types its names
const lines = [
  "import type { AnnotationQuery, Dashboard, DataQuery } from '@grafana/schema';",
  "import type { Options as BarGauge } from '../node_modules/@grafana/schema/dist/types/raw/composable/bargauge/panelcfg/x/types.gen';",
  "import type { Options as Stat } from '../node_modules/@grafana/schema/dist/types/raw/composable/stat/panelcfg/x/types.gen';",
  "import type { Options as TimeSeries, FieldConfig } from '../node_modules/@grafana/schema/dist/types/raw/composable/timeseries/panelcfg/x/types.gen';",
  'type Plain<T> = T extends string ? `${T}` : T extends object ? { [K in keyof T]: Plain<T[K]> } : T;',
  'type Options = { bargauge: BarGauge; stat: Stat; timeseries: TimeSeries };',
  `export const dashboard: Plain<Dashboard> = ${JSON.stringify(rest, null, 1)};`,
  // what the Prometheus data source adds to an annotation is in no package
  'type Annotation = Plain<AnnotationQuery> & Record<"expr" | "titleFormat" | "textFormat" | "step", string>;',
  `export const annotations: Annotation[] = ${JSON.stringify(annotations.list)};`,
];
dashboard.panels.forEach((panel, i) => {
  if (panel.type === 'row') return;
  lines.push(`export const options${i}: Plain<Partial<Options['${panel.type}']>> = ${JSON.stringify(panel.options)};`);
  lines.push(`export const targets${i}: Plain<DataQuery & Record<string, unknown>>[] = ${JSON.stringify(panel.targets)};`);
  if (panel.type === 'timeseries') {
    lines.push(`export const custom${i}: Plain<FieldConfig> = ${JSON.stringify(panel.fieldConfig.defaults.custom)};`);
  }
});

const folder = mkdtempSync(join(here, '.check-')); // beside node_modules, so that tsc finds them
try {
  const file = join(folder, 'dashboard.ts');
  writeFileSync(file, lines.join('\n'));
  const flags = '--noEmit --strict --skipLibCheck --module esnext --moduleResolution bundler --target es2022';
  execFileSync(join(here, 'node_modules/.bin/tsc'), [...flags.split(' '), file], { stdio: 'inherit' });
  console.log(`${dashboard.panels.length} panels agree with @grafana/schema`);
} catch (error) {
  process.exitCode = error.status ?? 1;
} finally {
  rmSync(folder, { recursive: true });
}
