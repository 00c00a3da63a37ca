//! The demo: the whole system on real packets, told as it happens, with every
//! figure measured. It decides nothing about how the system works.

mod bystander;
mod chapters;
pub mod nginx;
mod report;
mod stage;
mod story;

use anyhow::Result;

pub use report::{Course, Microseconds, Report};
pub use story::Audience;

use stage::Stage;
use story::Story;

/// Plays the demo and says what came out. Everything that it made is gone
/// when this returns, however it returns.
pub fn play(audience: Audience) -> Result<Report> {
    let title = "A chat host, someone who abuses it, and someone who does not";
    let mut story = Story::begin(audience, title)?;
    let mut stage = Stage::set(&mut story)?;
    let report = chapters::play(&mut stage, &mut story)?;
    story.end(&report.shortcomings())?;
    Ok(report)
}
