//! Charts as SVG files: lines over an axis of numbers.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

/// Lines, each with its name and its points (x, y).
pub(crate) struct Chart {
    pub(crate) x: &'static str,
    pub(crate) y: &'static str,
    pub(crate) lines: Vec<(String, Vec<(f64, f64)>)>,
}

const SIZE: (u32, u32) = (900, 480);

impl Chart {
    pub(crate) fn write(&self, title: &str, file: &Path) -> Result<()> {
        self.draw(title, file).map_err(|error| anyhow!("drawing {}: {error}", file.display()))
    }

    fn draw(&self, title: &str, file: &Path) -> Result<(), Box<dyn std::error::Error>> {
        let points = || self.lines.iter().flat_map(|(_, points)| points);
        let (first, last) = points().fold((f64::MAX, f64::MIN), |(first, last), (x, _)| (first.min(*x), last.max(*x)));
        let highest = points().map(|(_, y)| *y).fold(0.0, f64::max);
        if first > last {
            return Err("there are no points".into());
        }
        // An axis needs a length.
        let (last, highest) = (last.max(first + 1e-9), highest.max(1e-9));
        let area = SVGBackend::new(file, SIZE).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(72)
            .build_cartesian_2d(first..last, 0.0..highest * 1.05)?;
        chart.configure_mesh().x_desc(self.x).y_desc(self.y).light_line_style(WHITE).draw()?;
        for (number, (name, points)) in self.lines.iter().enumerate() {
            let style = Palette99::pick(number).stroke_width(2);
            let marks = points.iter().map(|point| Circle::new(*point, 3, style.filled()));
            chart.draw_series(marks.collect::<Vec<_>>())?;
            let line = chart.draw_series(LineSeries::new(points.iter().copied(), style))?;
            line.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], style));
        }
        chart
            .configure_series_labels()
            .border_style(BLACK.mix(0.3))
            .background_style(WHITE.mix(0.8))
            .position(SeriesLabelPosition::UpperLeft)
            .draw()?;
        area.present()?;
        Ok(())
    }
}
