//! Turns measurements into medians, prices, tables and a chart.

mod chart;
mod measurement;
pub mod prices;
mod report;
mod spread;

pub use chart::svg;
pub use measurement::{ContainerStart, ContainerStarts, Measurement, Stage, Way};
pub use report::{Goal, Report, Section};
pub use spread::Spread;
