//! Line charts as SVG, one above the other.

use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::prelude::*;

/// Width of a picture, px.
const WIDTH_PX: u32 = 900;
/// Height of a chart, px.
const HEIGHT_PX: u32 = 300;
const COLORS: [RGBColor; 4] =
    [RGBColor(31, 119, 180), RGBColor(214, 90, 20), RGBColor(44, 140, 60), RGBColor(130, 80, 170)];
const FAINT: RGBColor = RGBColor(190, 205, 220);

/// One line of a chart.
pub struct Line<'a> {
    /// What the legend says.
    pub name: &'a str,
    /// (x, y) in the order of x; points that are no numbers are left out.
    pub points: Vec<(f64, f64)>,
    /// Drawn behind the others, thin and pale: what another line is the mean of.
    pub is_faint: bool,
}

/// A vertical line with a name.
pub struct Mark {
    /// Where.
    pub x: f64,
    /// What the legend says.
    pub name: String,
}

/// One chart.
#[derive(Default)]
pub struct Chart<'a> {
    /// Title, above it.
    pub title: &'a str,
    /// What x is.
    pub x_name: &'a str,
    /// Its lines.
    pub lines: Vec<Line<'a>>,
    /// Its marks.
    pub marks: Vec<Mark>,
    /// x by powers of ten.
    pub is_log_x: bool,
    /// y from 0 to 1, whatever the lines say.
    pub is_share: bool,
}

/// Why a picture can't be drawn.
#[derive(Debug, thiserror::Error)]
#[error("drawing {title:?}: {cause}")]
pub struct PlotError {
    title: String,
    cause: String,
}

/// Draws charts below each other; SVG text.
///
/// # Errors
/// [`PlotError`], which only a defect of the drawing library gives.
pub fn svg(charts: &[Chart]) -> Result<String, PlotError> {
    let mut text = String::new();
    {
        let n_charts = u32::try_from(charts.len()).unwrap_or(1).max(1);
        let root = SVGBackend::with_string(&mut text, (WIDTH_PX, HEIGHT_PX * n_charts)).into_drawing_area();
        let fails = |chart: &Chart, cause: String| PlotError { title: chart.title.to_owned(), cause };
        root.fill(&WHITE).map_err(|error| PlotError { title: String::new(), cause: error.to_string() })?;
        for (area, chart) in root.split_evenly((charts.len().max(1), 1)).iter().zip(charts) {
            let (x, y) = (chart.x_range(), chart.y_range());
            let drawn = if chart.is_log_x {
                draw(area, chart, (x.start..x.end).log_scale(), y)
            } else {
                draw(area, chart, LinearAxis(x), y)
            };
            drawn.map_err(|error| fails(chart, error.to_string()))?;
        }
        root.present().map_err(|error| PlotError { title: String::new(), cause: error.to_string() })?;
    }
    Ok(text)
}

impl Chart<'_> {
    fn numbers(&self) -> impl Iterator<Item = (f64, f64)> {
        let points = self.lines.iter().flat_map(|line| line.points.iter().copied());
        points.filter(|(x, y)| x.is_finite() && y.is_finite())
    }

    fn x_range(&self) -> Range<f64> {
        let (low, high) = range(self.numbers().map(|(x, _)| x));
        // Charts below each other line up.
        let low = if self.is_log_x { low } else { low.min(0.0) };
        match (low < high, low.is_finite()) {
            (true, _) => low..high,
            (false, true) if self.is_log_x => low / 2.0..low * 2.0,
            (false, true) => low - 0.5..low + 0.5,
            (false, false) => {
                if self.is_log_x {
                    1.0..10.0
                } else {
                    0.0..1.0
                }
            }
        }
    }

    fn y_range(&self) -> Range<f64> {
        if self.is_share {
            return 0.0..1.0;
        }
        let (low, high) = range(self.numbers().map(|(_, y)| y));
        // A sweep's loss hardly moves for most of it, and its level is of no interest.
        let low = if self.is_log_x { low } else { low.min(0.0) };
        match (high > low, low.is_finite()) {
            (true, true) => low..high + (high - low) * 0.05,
            (_, true) => low - 0.5..low + 0.5,
            (_, false) => 0.0..1.0,
        }
    }
}

/// The least and the greatest; infinite the wrong way round without a number.
fn range(numbers: impl Iterator<Item = f64>) -> (f64, f64) {
    numbers
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), number| (low.min(number), high.max(number)))
}

/// Steps and learning rates alike need a plain axis with few labels.
struct LinearAxis(Range<f64>);

impl Ranged for LinearAxis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        plotters::coord::types::RangedCoordf64::from(self.0.clone()).map(value, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        plotters::coord::types::RangedCoordf64::from(self.0.clone()).key_points(hint)
    }

    fn range(&self) -> Range<f64> {
        self.0.clone()
    }
}

fn draw<X>(
    area: &DrawingArea<SVGBackend, Shift>,
    chart: &Chart,
    x: X,
    y: Range<f64>,
) -> Result<(), Box<dyn std::error::Error>>
where
    X: plotters::coord::ranged1d::AsRangedCoord<Value = f64>,
    X::CoordDescType: Ranged<ValueType = f64> + plotters::coord::ranged1d::ValueFormatter<f64>,
{
    let (bottom, top) = (y.start, y.end);
    // Where the lines don't end.
    let ends: Vec<f64> = chart.lines.iter().filter_map(|line| line.points.last()).map(|end| end.1).collect();
    let n_high = ends.iter().filter(|end| **end > bottom.midpoint(top)).count();
    let legend = if 2 * n_high > ends.len() {
        SeriesLabelPosition::LowerRight
    } else {
        SeriesLabelPosition::UpperRight
    };
    let mut context = ChartBuilder::on(area)
        .caption(chart.title, ("sans-serif", 18))
        .margin(10)
        .margin_right(24)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d(x, y)
        .map_err(|error| error.to_string())?;
    context
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(RGBColor(225, 225, 225))
        .x_desc(chart.x_name)
        .x_label_formatter(&|x| number(*x))
        .y_label_formatter(&|y| number(*y))
        .label_style(("sans-serif", 13))
        .draw()
        .map_err(|error| error.to_string())?;
    let mut colors = COLORS.into_iter().cycle();
    let mut lines: Vec<&Line> = chart.lines.iter().collect();
    lines.sort_by_key(|line| !line.is_faint);
    for line in lines {
        let color = if line.is_faint { FAINT } else { colors.next().unwrap_or(BLACK) };
        let style = color.stroke_width(if line.is_faint { 1 } else { 2 });
        let points = line.points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite());
        let points: Vec<_> = points.collect();
        // A line of one point is invisible.
        let dots = if line.is_faint {
            &[][..]
        } else if points.len() <= 40 {
            &points[..]
        } else {
            &[]
        };
        context
            .draw_series(dots.iter().map(|&at| Circle::new(at, 3, color.filled())))
            .map_err(|e| e.to_string())?;
        context
            .draw_series(LineSeries::new(points, style))
            .map_err(|error| error.to_string())?
            .label(line.name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
    }
    for mark in &chart.marks {
        let style = RGBColor(120, 120, 120).stroke_width(1);
        context
            .draw_series([PathElement::new([(mark.x, bottom), (mark.x, top)], style)])
            .map_err(|error| error.to_string())?
            .label(&mark.name)
            .legend(move |(x, y)| PathElement::new([(x + 9, y - 5), (x + 9, y + 5)], style));
    }
    if !chart.lines.is_empty() || !chart.marks.is_empty() {
        context
            .configure_series_labels()
            .position(legend)
            .background_style(WHITE.mix(0.8))
            .border_style(RGBColor(200, 200, 200))
            .label_font(("sans-serif", 13))
            .draw()
            .map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Short, also for very large and very small numbers.
fn number(value: f64) -> String {
    if value != 0.0 && (value.abs() < 1e-4 || value.abs() >= 1e6) {
        format!("{value:.1e}").replace(".0e", "e")
    } else {
        format!("{}", (value * 1e6).round() / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_without_a_number_is_still_one() {
        for is_log_x in [false, true] {
            let line = |points| Line { name: "nothing", points, is_faint: false };
            let lines = vec![line(vec![]), line(vec![(f64::NAN, 1.0), (1.0, f64::INFINITY)])];
            let text = svg(&[Chart { title: "empty", lines, is_log_x, ..Chart::default() }]).unwrap();
            assert!(text.starts_with("<svg") && text.trim_end().ends_with("</svg>"));
        }
    }

    #[test]
    fn points_are_where_their_numbers_say() {
        let line = Line { name: "a", points: vec![(0.0, 0.0), (10.0, 1.0)], is_faint: false };
        let text =
            svg(&[Chart { title: "t", lines: vec![line], is_share: true, ..Chart::default() }]).unwrap();
        let polyline = text.lines().find(|l| l.contains("<polyline") && l.contains("#1F77B4")).unwrap();
        let points = polyline.split("points=\"").nth(1).unwrap().split('"').next().unwrap();
        let numbers: Vec<f64> =
            points.split([' ', ',']).filter(|s| !s.is_empty()).map(|s| s.parse().unwrap()).collect();
        // From the left bottom to the right top of the drawing area.
        assert!(numbers[0] < 90.0 && numbers[2] > 860.0, "{points}");
        assert!(numbers[1] > 230.0 && numbers[3] < 50.0, "{points}");
    }
}
