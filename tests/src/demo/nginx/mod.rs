//! The same story with nothing but nginx in front of an app that is not changed and
//! reports nothing: an Express application with LibreChat's routes and answers.

mod chapters;
mod report;
mod stage;

use anyhow::Result;

pub use report::Report;

use super::story::{Audience, Story};
use stage::Stage;

/// Plays it and says what came out. Everything that it made is gone when this returns,
/// however it returns.
pub fn play(audience: Audience) -> Result<Report> {
    let title = "A chat app that knows nothing, nginx in front of it, and someone who abuses it";
    let mut story = Story::begin(audience, title)?;
    let mut stage = Stage::set(&mut story)?;
    let report = chapters::play(&mut stage, &mut story)?;
    story.end(&report.shortcomings())?;
    Ok(report)
}
