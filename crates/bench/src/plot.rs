//! `plot`: draws latency over time and the percentile curve of saved measurements, as one SVG.
//!
//! Drawn without a library: two panels of lines over logarithmic scales need none. A slice of time
//! in which nothing succeeded breaks the line, so that a freeze shows as a gap.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::Outcome;
use crate::summary::Summary;

/// The size of the picture and of each panel in it, in pixels.
const WIDTH: f64 = 1000.0;
const PANEL_HEIGHT: f64 = 300.0;
const MARGIN: f64 = 70.0;
const LEGEND_LINE: f64 = 18.0;
/// Colours that differ for colour-blind readers too (Okabe and Ito).
const COLOURS: [&str; 7] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#555555"];
/// The percentile curve ends here, in nines: 99.999 %.
const NINES_MAX: f64 = 5.0;

/// Draw measurements that `--json` saved.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The file, with one measurement per line.
    file: PathBuf,
    /// The file to draw into.
    #[arg(long, default_value = "bench.svg")]
    svg: PathBuf,
    /// Draw only measurements of this operation.
    #[arg(long)]
    op: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// A sentence that names the file.
pub(crate) fn run(args: &Args) -> Result<Outcome, String> {
    let mut summaries = Summary::read_from(&args.file)?;
    summaries.retain(|it| args.op.as_ref().is_none_or(|op| *op == it.op));
    write(&args.svg, &summaries)?;
    Ok(Outcome { report: format!("{}\n", args.svg.display()), good: true })
}

/// Draws measurements into a file.
///
/// # Errors
/// A sentence that names the file.
pub(crate) fn write(path: &Path, summaries: &[Summary]) -> Result<(), String> {
    std::fs::write(path, svg(summaries)).map_err(|error| format!("{}: {error}", path.display()))
}

fn svg(summaries: &[Summary]) -> String {
    let drawn: Vec<&Summary> = summaries.iter().filter(|it| !it.points.is_empty()).collect();
    let legend = LEGEND_LINE * (drawn.len() + 1) as f64;
    let height = 2.0 * (PANEL_HEIGHT + MARGIN) + MARGIN + legend;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let latencies = drawn.iter().flat_map(|it| &it.points).flat_map(|it| [it.p50_us, it.p99_us]);
    let seconds = drawn.iter().flat_map(|it| &it.points).fold(1.0, |most, it| it.seconds.max(most));
    let time = Panel {
        top: MARGIN,
        x: (0.0, seconds),
        y: decades(latencies),
        title: "Latency over time, ms: p50 thin, p99 thick (a gap: nothing succeeded)",
    };
    time.frame(&mut out, &time_ticks(seconds));
    let curve = Panel {
        top: 2.0 * MARGIN + PANEL_HEIGHT,
        x: (0.0, NINES_MAX),
        y: decades(drawn.iter().flat_map(|it| &it.curve).map(|(_, us)| *us)),
        title: "Latency by percentile, ms",
    };
    let percents = ["0", "90", "99", "99.9", "99.99", "99.999"];
    let ticks = percents.iter().enumerate().map(|(nines, it)| (nines as f64, format!("{it} %")));
    curve.frame(&mut out, &ticks.collect::<Vec<_>>());
    for (summary, colour) in drawn.iter().zip(COLOURS.iter().cycle()) {
        let over_time = |of: fn(&crate::summary::Point) -> u64| {
            summary.points.iter().map(move |it| (it.seconds, of(it)))
        };
        time.line(&mut out, over_time(|it| it.p50_us), colour, 1.0);
        time.line(&mut out, over_time(|it| it.p99_us), colour, 2.0);
        let nines = |(percent, us): &(f64, u64)| (-(1.0 - percent / 100.0).max(1e-9).log10(), *us);
        let within = summary.curve.iter().map(nines).filter(|(nines, _)| *nines <= NINES_MAX);
        curve.line(&mut out, within, colour, 2.0);
    }
    draw_legend(&mut out, &drawn, 2.0 * (PANEL_HEIGHT + MARGIN) + MARGIN);
    out + "</svg>\n"
}

fn draw_legend(out: &mut String, drawn: &[&Summary], top: f64) {
    for (place, (summary, colour)) in drawn.iter().zip(COLOURS.iter().cycle()).enumerate() {
        let y = top + LEGEND_LINE * place as f64;
        let what = format!(
            "{} {}: {} connections, {} bytes, {:.0} operations/s",
            summary.name,
            summary.op,
            summary.connections,
            summary.value_bytes,
            summary.operations_per_second
        );
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "<rect x=\"{MARGIN}\" y=\"{:.0}\" width=\"14\" height=\"4\" fill=\"{colour}\"/>\
             <text x=\"{:.0}\" y=\"{y:.0}\">{}</text>",
            y - 6.0,
            MARGIN + 20.0,
            escape(&what)
        );
    }
}

/// A panel: its position, and the ranges of its axes; y is in decades of microseconds.
struct Panel {
    top: f64,
    x: (f64, f64),
    y: (f64, f64),
    title: &'static str,
}

impl Panel {
    fn at(&self, x: f64, latency_us: u64) -> (f64, f64) {
        let decades = (latency_us.max(1) as f64).log10().clamp(self.y.0, self.y.1);
        let along = (x - self.x.0) / (self.x.1 - self.x.0);
        let up = (decades - self.y.0) / (self.y.1 - self.y.0);
        (MARGIN + along * (WIDTH - 2.0 * MARGIN), self.top + (1.0 - up) * PANEL_HEIGHT)
    }

    /// The title, the grid and the ticks.
    fn frame(&self, out: &mut String, x_ticks: &[(f64, String)]) {
        let (right, bottom) = (WIDTH - MARGIN, self.top + PANEL_HEIGHT);
        let _ = writeln!(
            out,
            "<text x=\"{MARGIN}\" y=\"{:.0}\" font-weight=\"bold\">{}</text>",
            self.top - 8.0,
            self.title
        );
        let line = |out: &mut String, (x1, y1): (f64, f64), (x2, y2): (f64, f64)| {
            let _ = writeln!(
                out,
                "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" stroke=\"#ddd\"/>"
            );
        };
        for decade in self.y.0 as i32..=self.y.1 as i32 {
            let (_, y) = self.at(self.x.0, 10_u64.pow(decade.unsigned_abs()));
            line(out, (MARGIN, y), (right, y));
            let ms = 10_f64.powi(decade - 3);
            let _ = writeln!(
                out,
                "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{ms}</text>",
                MARGIN - 6.0,
                y + 4.0
            );
        }
        for (x, label) in x_ticks {
            let (x, _) = self.at(*x, 1);
            line(out, (x, self.top), (x, bottom));
            let _ = writeln!(
                out,
                "<text x=\"{x:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{label}</text>",
                bottom + 16.0
            );
        }
    }

    /// A line through these points, broken where there is no latency.
    fn line(
        &self,
        out: &mut String,
        points: impl Iterator<Item = (f64, u64)>,
        colour: &str,
        width: f64,
    ) {
        let mut path = String::new();
        let mut broken = true;
        for (x, latency_us) in points {
            if latency_us > 0 {
                let (x, y) = self.at(x, latency_us);
                let _ = write!(path, "{}{x:.1} {y:.1}", if broken { "M" } else { "L" });
            }
            broken = latency_us == 0;
        }
        let _ = writeln!(
            out,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{width}\"/>"
        );
    }
}

/// The decades of microseconds that these latencies fall in.
fn decades(latencies_us: impl Iterator<Item = u64>) -> (f64, f64) {
    let (mut least, mut most) = (u64::MAX, 0);
    for us in latencies_us.filter(|it| *it > 0) {
        (least, most) = (least.min(us), most.max(us));
    }
    if most == 0 {
        return (2.0, 5.0);
    }
    let low = (least as f64).log10().floor();
    (low, (most as f64).log10().ceil().max(low + 1.0))
}

/// About ten round numbers of seconds.
fn time_ticks(seconds: f64) -> Vec<(f64, String)> {
    let steps = [1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 3600.0];
    let step = steps.into_iter().find(|it| seconds / it <= 12.0).unwrap_or(7200.0);
    let count = (seconds / step) as u32;
    (0..=count).map(|it| (f64::from(it) * step, format!("{} s", f64::from(it) * step))).collect()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::summary::Point;
    use crate::summary::tests::summary;

    fn point(seconds: f64, p50_us: u64) -> Point {
        Point {
            seconds,
            operations_per_second: 1.0,
            p50_us,
            p99_us: p50_us * 2,
            max_us: p50_us * 3,
        }
    }

    #[test]
    fn a_freeze_breaks_the_line_and_names_are_escaped() {
        let points = vec![point(1.0, 1000), point(2.0, 1100), point(3.0, 0), point(4.0, 900)];
        let curve = vec![(0.0, 800), (50.0, 1000), (99.0, 2000), (100.0, 3000)];
        let svg = svg(&[Summary { points, curve, ..summary("a<b>&c", "get", 1.0) }]);
        let lines: Vec<&str> = svg.lines().filter(|it| it.starts_with("<path")).collect();
        assert_eq!(lines.len(), 3);
        let pieces = |line: &str| line.matches('M').count();
        assert_eq!([pieces(lines[0]), pieces(lines[1]), pieces(lines[2])], [2, 2, 1]);
        assert!(svg.contains("a&lt;b&gt;&amp;c get"), "{svg}");
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn nothing_to_draw_is_a_picture_too() {
        let svg = svg(&[summary("a", "get", 1.0)]);
        assert!(!svg.contains("<path") && !svg.contains("NaN"), "{svg}");
    }
}
