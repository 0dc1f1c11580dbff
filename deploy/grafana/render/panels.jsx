// In the browser: the dashboard's panels as @grafana/ui draws them, from `window.scene`.
import { createTheme, dateTime, FieldType, getDisplayProcessor, toDataFrame } from '@grafana/data';
import { BarGauge, BigValue, BigValueColorMode, BigValueGraphMode, PanelChrome, ThemeContext, TimeSeries } from '@grafana/ui';
import { createRoot } from 'react-dom/client';

const { panels, from, to, cell, columns } = window.scene;
const theme = createTheme({ colors: { mode: 'light' } });
const timeRange = { from: dateTime(from), to: dateTime(to), raw: { from: dateTime(from), to: dateTime(to) } };
const GAP = 8;

/** A number field of one series, with what the panel says of its fields. */
function numbers(panel, series, index) {
  const config = { ...panel.fieldConfig.defaults, displayName: series.name };
  if (config.color?.mode === 'palette-classic') {
    config.color = { mode: 'fixed', fixedColor: theme.visualization.palette[index % 24] };
  }
  const field = { name: series.name, type: FieldType.number, values: series.values, config, state: { seriesIndex: index } };
  field.display = getDisplayProcessor({ field, theme });
  return field;
}

function Graph({ panel, width, height }) {
  const frames = panel.series.map((series, index) => {
    const frame = toDataFrame({ fields: [{ name: 'time', type: FieldType.time, values: series.times, config: {} }] });
    frame.fields[0].display = getDisplayProcessor({ field: frame.fields[0], theme, timeZone: 'utc' });
    frame.fields.push(numbers(panel, series, index));
    return frame;
  });
  return (
    <TimeSeries frames={frames} timeRange={timeRange} timeZone="utc" width={width} height={height} structureRev={1}
      legend={panel.options.legend} options={panel.options} />
  );
}

function last(panel, series, index) {
  const field = numbers(panel, series, index);
  return { ...field.display(series.values.at(-1)), title: series.name };
}

function Stat({ panel, width, height }) {
  return <BigValue theme={theme} width={width} height={height} colorMode={BigValueColorMode.Value}
    graphMode={BigValueGraphMode.None} textMode="value" value={last(panel, panel.series[0], 0)} />;
}

function Bars({ panel, width, height }) {
  const each = height / panel.series.length;
  const longest = (texts) => texts.reduce((one, other) => (other.length > one.length ? other : one), '');
  const alignment = {
    title: longest(panel.series.map(({ name }) => name)),
    text: longest(panel.series.map((series, index) => last(panel, series, index).text)),
    suffix: '%',
  };
  return panel.series.map((series, index) => {
    const field = numbers(panel, series, index);
    return <BarGauge key={series.name} theme={theme} width={width} height={each - 4} itemSpacing={4} lcdCellWidth={12}
      field={field.config} display={field.display} value={last(panel, series, index)} orientation="horizontal"
      displayMode={panel.options.displayMode} alignmentFactors={alignment} showUnfilled={panel.options.showUnfilled} />;
  });
}

const KINDS = { timeseries: Graph, stat: Stat, bargauge: Bars };

function Panel({ panel }) {
  const { x, y, w, h } = panel.gridPos;
  const place = { position: 'absolute', left: x * columns + GAP / 2, top: y * cell };
  const size = { width: w * columns - GAP, height: h * cell - GAP };
  if (panel.type === 'row') {
    return <h4 style={{ ...place, ...size, margin: 0, paddingTop: 6 }}>{panel.title}</h4>;
  }
  const Kind = KINDS[panel.type];
  return (
    <div style={place}>
      <PanelChrome title={panel.title} {...size}>
        {(width, height) => <Kind panel={panel} width={width} height={height} />}
      </PanelChrome>
    </div>
  );
}

createRoot(document.getElementById('root')).render(
  <ThemeContext.Provider value={theme}>
    {panels.map((panel) => <Panel key={panel.id} panel={panel} />)}
  </ThemeContext.Provider>
);
