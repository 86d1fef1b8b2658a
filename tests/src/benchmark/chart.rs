//! A bar chart of the medians, as SVG.

use std::fmt::Write as _;

use crate::benchmark::{Report, Spread, Stage, Way};

const WIDTH: f64 = 840.0;
/// Left edge of the bars. Their labels are on its left.
const LEFT: f64 = 190.0;
/// Space for the time at the end of a bar.
const RIGHT: f64 = 70.0;
const TOP: f64 = 40.0;
const ROW: f64 = 46.0;
const BAR: f64 = 26.0;
const LEGEND_COLUMNS: usize = 5;
const LEGEND_ROW: f64 = 22.0;

/// Colours that most colour-blind people can distinguish, also from white and black. Source: Okabe and Ito,
/// <https://jfly.uni-koeln.de/color/>.
fn colour(stage: Stage) -> &'static str {
    match stage {
        Stage::Debounce => "#9a9a9a",
        Stage::Plan => "#cc79a7",
        Stage::Launch => "#56b4e9",
        Stage::Ready => "#0072b2",
        Stage::Pull => "#e69f00",
        Stage::Stop => "#a0694b",
        Stage::Snapshot => "#009e73",
        Stage::Verify => "#f0e442",
        Stage::Publish => "#d55e00",
        Stage::CleanUp => "#8f7fd6",
    }
}

/// Draws the wall time of each way by stage. The medians of the stages do not add up to the median of the whole. The bar
/// has the length of the latter, and each stage has its share.
#[must_use]
pub fn svg(report: &Report) -> String {
    let ways: Vec<_> = Way::ALL
        .into_iter()
        .filter_map(|way| Some((way, report.spread(way, |measured| measured.seconds)?)))
        .collect();
    let longest = ways.iter().map(|(_, time)| time.median).fold(1.0, f64::max);
    let scale = (WIDTH - LEFT - RIGHT) / longest;
    let legend_top = TOP + ROW * f64::from(u32::try_from(ways.len()).unwrap_or_default()) + 8.0;
    let height = legend_top + 2.0 * LEGEND_ROW + 6.0;
    let mut drawn = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"Wall time by stage\" font-family=\"system-ui, sans-serif\" font-size=\"13\">\n\
         <style>text{{fill:#24292f}}@media(prefers-color-scheme:dark){{text{{fill:#d0d7de}}}}</style>\n\
         <text x=\"{LEFT}\" y=\"20\" font-weight=\"600\">Seconds from the request until the snapshot is complete and published, by stage</text>\n"
    );
    let mut y = TOP;
    for (way, time) in ways {
        bar(report, way, time, y, scale, &mut drawn);
        y += ROW;
    }
    legend(legend_top, &mut drawn);
    drawn.push_str("</svg>\n");
    drawn
}

fn bar(report: &Report, way: Way, time: Spread, y: f64, scale: f64, drawn: &mut String) {
    let middle = y + BAR / 2.0 + 4.5;
    // Writing to a string cannot fail.
    let _ = writeln!(
        drawn,
        "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}</text>",
        LEFT - 10.0,
        way.title()
    );
    let stages: Vec<_> = Stage::ALL
        .into_iter()
        .filter(|stage| *stage != Stage::CleanUp)
        .filter_map(|stage| {
            let median = report.spread(way, |measured| {
                measured.stages.get(&stage).copied().unwrap_or_default()
            })?;
            Some((stage, median.median))
        })
        .collect();
    let sum: f64 = stages.iter().map(|(_, seconds)| seconds).sum();
    let mut x = LEFT;
    for (stage, seconds) in stages {
        let width = seconds / sum.max(f64::MIN_POSITIVE) * time.median * scale;
        if width > 0.0 {
            let _ = writeln!(
                drawn,
                "<rect x=\"{x:.1}\" y=\"{y}\" width=\"{width:.1}\" height=\"{BAR}\" fill=\"{}\"><title>{}: {seconds:.1} s</title></rect>",
                colour(stage),
                stage.title()
            );
        }
        x += width;
    }
    let _ = writeln!(
        drawn,
        "<text x=\"{:.1}\" y=\"{middle}\">{:.1} s</text>",
        x + 8.0,
        time.median
    );
}

fn legend(top: f64, drawn: &mut String) {
    let step = (WIDTH - 40.0) / f64::from(u32::try_from(LEGEND_COLUMNS).unwrap_or(1));
    for (row, stages) in Stage::ALL.chunks(LEGEND_COLUMNS).enumerate() {
        let y = top + LEGEND_ROW * f64::from(u32::try_from(row).unwrap_or_default());
        let mut x = 40.0;
        for stage in stages {
            let _ = writeln!(
                drawn,
                "<rect x=\"{x}\" y=\"{y}\" width=\"12\" height=\"12\" fill=\"{}\"/><text x=\"{}\" y=\"{}\">{}</text>",
                colour(*stage),
                x + 18.0,
                y + 11.0,
                stage.title()
            );
            x += step;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::benchmark::report::tests::report;

    #[test]
    fn bars_are_in_proportion_to_the_longest() {
        let drawn = svg(&report());
        // The script takes 90 s, all in the pull. The cold build takes 20 s.
        assert!(drawn.contains("width=\"580.0\""), "{drawn}");
        assert!(drawn.contains("width=\"128.9\""), "{drawn}");
        assert!(drawn.contains(">90.0 s</text>"), "{drawn}");
    }

    #[test]
    fn text_has_a_colour_for_light_and_for_dark() {
        let drawn = svg(&report());
        assert!(drawn.contains("prefers-color-scheme:dark"));
        assert_eq!(
            drawn.matches("<svg").count(),
            drawn.matches("</svg>").count()
        );
    }

    #[test]
    fn stages_have_different_colours() {
        let colours: std::collections::BTreeSet<_> = Stage::ALL.map(colour).into();
        assert_eq!(colours.len(), Stage::ALL.len());
    }
}
