//! Plots as SVG for a page whose style sheet gives the colours, in light and in dark.

use std::fmt::Write as _;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 380.0;
const LEFT: f64 = 66.0;
const RIGHT: f64 = 30.0;
const BOTTOM: f64 = 52.0;
/// Height of a line of the legend.
const LEGEND_LINE: f64 = 20.0;
/// Mean width of a character of the legend's and the labels' size, a little generous.
const CHARACTER: f64 = 7.6;
/// Height of a series in a row of [`intervals`], and of the space between rows.
const SERIES: f64 = 9.0;
const GAP: f64 = 9.0;

/// How an axis is spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Evenly.
    Linear,
    /// By the logarithm; the range is above 0.
    Log,
}

/// How an axis writes its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// As they are.
    Plain,
    /// 0..=1 as 0 to 100 %.
    Percent,
}

/// One axis.
#[derive(Clone, Debug)]
pub struct Axis {
    label: String,
    low: f64,
    high: f64,
    scale: Scale,
    unit: Unit,
}

impl Axis {
    /// An axis from `low` to `high`, which is larger.
    pub fn new(label: &str, low: f64, high: f64, scale: Scale, unit: Unit) -> Self {
        Axis { label: label.to_owned(), low, high, scale, unit }
    }

    /// Shares from 0 to 1, as percent.
    pub fn share(label: &str) -> Self {
        Axis::new(label, 0.0, 1.0, Scale::Linear, Unit::Percent)
    }

    /// Where a number lies, 0..=1; what is outside of the range lies on its end.
    fn place(&self, number: f64) -> f64 {
        let number = number.clamp(self.low, self.high);
        match self.scale {
            Scale::Linear => (number - self.low) / (self.high - self.low),
            Scale::Log => (number / self.low).ln() / (self.high / self.low).ln(),
        }
    }

    /// About `n` round numbers in the range; powers of ten on a logarithmic axis.
    fn ticks(&self, n: f64) -> Vec<f64> {
        if self.scale == Scale::Log {
            let mut tick = 10f64.powf(self.low.log10().ceil());
            let mut ticks = Vec::new();
            while tick <= self.high * (1.0 + 1e-9) {
                ticks.push(tick);
                tick *= 10.0;
            }
            return ticks;
        }
        let rough = (self.high - self.low) / n;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|times| times * power).into_iter().find(|step| *step >= rough);
        let step = step.unwrap_or(10.0 * power);
        let first = (self.low / step - 1e-9).ceil();
        let ticks = (0..).map(|idx| (first + f64::from(idx)) * step);
        ticks.take_while(|tick| *tick <= self.high + step * 1e-9).collect()
    }

    fn write(&self, number: f64) -> String {
        let (number, unit) = match self.unit {
            Unit::Plain => (number, ""),
            Unit::Percent => (number * 100.0, " %"),
        };
        // Powers of ten and their round multiples need no more digits than these.
        let text = format!("{number:.4}");
        format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// Which colour of the page; the class `t-NAME` sets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// Reals.
    Real,
    /// Fakes.
    Fake,
    /// A first series that is neither.
    First,
    /// A second one.
    Second,
    /// A third one.
    Third,
    /// What helps to read.
    Quiet,
}

impl Tone {
    /// The class that sets the colour.
    pub fn class(self) -> &'static str {
        match self {
            Tone::Real => "t-real",
            Tone::Fake => "t-fake",
            Tone::First => "t-first",
            Tone::Second => "t-second",
            Tone::Third => "t-third",
            Tone::Quiet => "t-quiet",
        }
    }
}

/// `text` for HTML and SVG, in elements and in attributes.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Control characters have no place in a page.
            c if c.is_control() && !matches!(c, '\n' | '\t') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

/// A plot with two axes.
#[derive(Clone, Debug)]
pub struct Plot {
    description: String,
    x: Axis,
    y: Axis,
    /// What is drawn, before it is known how high the legend is: each gets the plot's area.
    marks: Vec<Mark>,
}

#[derive(Clone, Debug)]
struct Mark {
    tone: Tone,
    /// Empty for what the legend leaves out.
    label: String,
    shape: Shape,
}

#[derive(Clone, Debug)]
enum Shape {
    Line { points: Vec<(f64, f64)>, is_dashed: bool },
    Dots(Vec<(f64, f64)>),
    Bars(Vec<(f64, f64, f64)>),
}

impl Plot {
    /// An empty plot; `description` says what it shows to whoever can't see it.
    pub fn new(description: &str, x: Axis, y: Axis) -> Self {
        Plot { description: description.to_owned(), x, y, marks: Vec::new() }
    }

    fn with(mut self, tone: Tone, label: &str, shape: Shape) -> Self {
        self.marks.push(Mark { tone, label: label.to_owned(), shape });
        self
    }

    /// Points joined by a line.
    pub fn line(self, tone: Tone, label: &str, points: Vec<(f64, f64)>) -> Self {
        self.with(tone, label, Shape::Line { points, is_dashed: false })
    }

    /// Points joined by a dashed line.
    pub fn dashed(self, tone: Tone, label: &str, points: Vec<(f64, f64)>) -> Self {
        self.with(tone, label, Shape::Line { points, is_dashed: true })
    }

    /// Points alone.
    pub fn dots(self, tone: Tone, label: &str, points: Vec<(f64, f64)>) -> Self {
        self.with(tone, label, Shape::Dots(points))
    }

    /// Bars from the x-axis: left, right, height.
    pub fn bars(self, tone: Tone, label: &str, bars: Vec<(f64, f64, f64)>) -> Self {
        self.with(tone, label, Shape::Bars(bars))
    }

    /// The SVG element.
    pub fn svg(&self) -> String {
        let legend = self.legend();
        let area = Area {
            left: LEFT,
            right: WIDTH - RIGHT,
            top: legend.height + 8.0,
            bottom: HEIGHT - BOTTOM,
            x: &self.x,
            y: &self.y,
        };
        let mut svg = open(&self.description, HEIGHT);
        svg += &area.grid();
        for mark in &self.marks {
            let _ = write!(svg, r#"<g class="{}">"#, mark.tone.class());
            svg += &area.shape(&mark.shape);
            svg += "</g>";
        }
        svg + &legend.svg + "</svg>"
    }

    fn legend(&self) -> Legend {
        let labelled = self.marks.iter().filter(|mark| !mark.label.is_empty());
        let entries = labelled.map(|mark| {
            let is_dashed = matches!(mark.shape, Shape::Line { is_dashed: true, .. });
            let sample = match mark.shape {
                Shape::Line { .. } => Sample::Line { is_dashed },
                Shape::Dots(_) => Sample::Dot,
                Shape::Bars(_) => Sample::Bar,
            };
            (mark.tone, mark.label.as_str(), sample)
        });
        Legend::new(entries)
    }
}

enum Sample {
    Line { is_dashed: bool },
    Dot,
    Bar,
}

struct Legend {
    svg: String,
    height: f64,
}

impl Legend {
    fn new<'a>(entries: impl Iterator<Item = (Tone, &'a str, Sample)>) -> Self {
        let (mut x, mut y) = (LEFT, LEGEND_LINE / 2.0 + 2.0);
        let mut svg = String::new();
        for (tone, label, sample) in entries {
            let width = 30.0 + CHARACTER * label.chars().count() as f64 + 16.0;
            if x > LEFT && x + width > WIDTH - RIGHT {
                (x, y) = (LEFT, y + LEGEND_LINE);
            }
            let _ = write!(svg, r#"<g class="{}">"#, tone.class());
            let _ = match sample {
                Sample::Line { is_dashed } => {
                    let class = if is_dashed { "line dashed" } else { "line" };
                    write!(svg, r#"<path class="{class}" d="M{x:.1} {y:.1}h22"/>"#)
                }
                Sample::Dot => write!(svg, r#"<circle class="dot" cx="{:.1}" cy="{y:.1}" r="4"/>"#, x + 11.0),
                Sample::Bar => write!(
                    svg,
                    r#"<rect class="bar" x="{:.1}" y="{:.1}" width="16" height="11"/>"#,
                    x + 4.0,
                    y - 5.5
                ),
            };
            svg += "</g>";
            let _ = write!(svg, r#"<text x="{:.1}" y="{:.1}">{}</text>"#, x + 28.0, y + 4.0, escape(label));
            x += width;
        }
        let height = if svg.is_empty() { 0.0 } else { y + LEGEND_LINE / 2.0 };
        Legend { svg, height }
    }
}

fn open(description: &str, height: f64) -> String {
    let description = escape(description);
    format!(
        r#"<svg class="plot" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{description}"><title>{description}</title>"#
    )
}

/// Where numbers lie in the picture.
struct Area<'a> {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
    x: &'a Axis,
    y: &'a Axis,
}

impl Area<'_> {
    fn x(&self, number: f64) -> f64 {
        self.left + self.x.place(number) * (self.right - self.left)
    }

    fn y(&self, number: f64) -> f64 {
        self.bottom - self.y.place(number) * (self.bottom - self.top)
    }

    fn x_axis(&self) -> String {
        let mut svg = String::new();
        let (top, bottom) = (self.top, self.bottom);
        for tick in self.x.ticks(8.0) {
            let (x, number) = (self.x(tick), self.x.write(tick));
            let _ = write!(svg, r#"<path class="grid" d="M{x:.1} {top:.1}V{bottom:.1}"/>"#);
            let _ =
                write!(svg, r#"<text class="middle" x="{x:.1}" y="{:.1}">{number}</text>"#, bottom + 18.0);
        }
        let (middle, label) = (self.left.midpoint(self.right), escape(&self.x.label));
        svg + &format!(r#"<text class="middle" x="{middle:.1}" y="{:.1}">{label}</text>"#, bottom + 40.0)
    }

    fn grid(&self) -> String {
        let mut svg = self.x_axis();
        let (left, right) = (self.left, self.right);
        for tick in self.y.ticks(6.0) {
            let (y, number) = (self.y(tick), self.y.write(tick));
            let _ = write!(svg, r#"<path class="grid" d="M{left:.1} {y:.1}H{right:.1}"/>"#);
            let (x, y) = (left - 8.0, y + 4.0);
            let _ = write!(svg, r#"<text class="end" x="{x:.1}" y="{y:.1}">{number}</text>"#);
        }
        let (middle, label) = (self.top.midpoint(self.bottom), escape(&self.y.label));
        let _ = write!(
            svg,
            r#"<text class="middle" transform="translate(14 {middle:.1}) rotate(-90)">{label}</text>"#
        );
        svg
    }

    fn shape(&self, shape: &Shape) -> String {
        let mut svg = String::new();
        match shape {
            Shape::Line { points, is_dashed } => {
                let class = if *is_dashed { "line dashed" } else { "line" };
                let mut path = String::new();
                for (idx, &(x, y)) in points.iter().enumerate() {
                    let command = if idx == 0 { 'M' } else { 'L' };
                    let _ = write!(path, "{command}{:.1} {:.1}", self.x(x), self.y(y));
                }
                let _ = write!(svg, r#"<path class="{class}" d="{path}"/>"#);
            }
            Shape::Dots(points) => {
                for &(x, y) in points {
                    let (x, y) = (self.x(x), self.y(y));
                    let _ = write!(svg, r#"<circle class="dot" cx="{x:.1}" cy="{y:.1}" r="4"/>"#);
                }
            }
            Shape::Bars(bars) => {
                for &(left, right, height) in bars {
                    let (x, y) = (self.x(left), self.y(height));
                    let (width, height) = ((self.x(right) - x - 1.0).max(1.0), self.bottom - y);
                    let _ = write!(
                        svg,
                        r#"<rect class="bar" x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}"/>"#
                    );
                }
            }
        }
        svg
    }
}

/// A number with its interval, or why there is none.
#[derive(Clone, Debug)]
pub struct Interval {
    /// Its colour.
    pub tone: Tone,
    /// The number and its interval, if any.
    pub number: Result<(f64, Option<(f64, f64)>), String>,
}

/// Numbers with intervals, one row for each of `rows`: its name and a number for each of `series`, which names them.
pub fn intervals(
    description: &str,
    x: &Axis,
    series: &[(Tone, &str)],
    rows: &[(String, Vec<Interval>)],
) -> String {
    let longest = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let legend = Legend::new(series.iter().map(|(tone, label)| (*tone, *label, Sample::Dot)));
    let top = legend.height + 8.0;
    let row_height = SERIES * series.len() as f64 + GAP;
    let bottom = top + row_height * rows.len() as f64;
    let left = (CHARACTER * longest as f64 + 20.0).clamp(LEFT, WIDTH / 2.0);
    let area = Area { left, right: WIDTH - RIGHT, top, bottom, x, y: x };
    let mut svg = open(description, bottom + BOTTOM);
    svg += &area.x_axis();
    for (row, (name, numbers)) in rows.iter().enumerate() {
        let middle = top + row_height * (row as f64 + 0.5);
        let name = escape(&shortened(name, left));
        let _ =
            write!(svg, r#"<text class="end" x="{:.1}" y="{:.1}">{name}</text>"#, left - 8.0, middle + 4.0);
        let n_numbers = numbers.len().max(1) as f64;
        for (idx, interval) in numbers.iter().enumerate() {
            let y = middle + (idx as f64 - (n_numbers - 1.0) / 2.0) * SERIES;
            let _ = write!(svg, r#"<g class="{}">"#, interval.tone.class());
            match &interval.number {
                Ok((number, range)) => {
                    if let Some((low, high)) = range {
                        let (low, high) = (area.x(*low), area.x(*high));
                        let _ = write!(svg, r#"<path class="line" d="M{low:.1} {y:.1}H{high:.1}"/>"#);
                    }
                    let _ =
                        write!(svg, r#"<circle class="dot" cx="{:.1}" cy="{y:.1}" r="4"/>"#, area.x(*number));
                }
                // One note is enough for a row.
                Err(why) if idx == 0 => {
                    let (x, y, why) = (left + 8.0, middle + 4.0, escape(why));
                    let _ = write!(svg, r#"<text class="note" x="{x:.1}" y="{y:.1}">{why}</text>"#);
                }
                Err(_) => {}
            }
            svg += "</g>";
        }
    }
    svg + &legend.svg + "</svg>"
}

/// A name that fits left of the rows; its end says most.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "tens of characters")]
fn shortened(name: &str, width: f64) -> String {
    let most = ((width - 16.0) / CHARACTER) as usize;
    let n = name.chars().count();
    if n <= most {
        return name.to_owned();
    }
    std::iter::once('…').chain(name.chars().skip(n + 1 - most)).collect()
}
