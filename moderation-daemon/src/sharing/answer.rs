//! What the scripts answer, read. Whatever is not of their form is refused: somebody else
//! may write under our names.

use smallvec::SmallVec;

use crate::engine::Score;

/// How a window stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// What was used up before.
    pub used: u64,
    /// When some of it is free again, in milliseconds of the server's clock.
    pub frees_at_ms: u64,
}

/// What became of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was taken.
    Taken,
    /// That claim stood in its way.
    Denied(usize),
    /// It came after its time; nothing was taken.
    Late,
    /// A key holds something else; nothing was taken.
    Foreign,
}

/// The answer to a group.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupAnswer {
    /// What became of it.
    pub verdict: Verdict,
    /// How its windows stood, in the order of its claims.
    pub standings: SmallVec<[Standing; 2]>,
    /// The score, if it was wanted and is known.
    pub score: Option<Score>,
}

/// An answer that no script of ours gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an answer that makes no sense")]
pub struct BadAnswer;

/// Reads the answer to a group with so many claims.
///
/// # Errors
///
/// If it has another form.
pub fn read_group(bytes: &[u8], claims: usize) -> Result<GroupAnswer, BadAnswer> {
    let (verdict, rest) = bytes.split_first().ok_or(BadAnswer)?;
    let (parts, score) = rest.split_at_checked(12 * claims).ok_or(BadAnswer)?;
    let standings = parts
        .as_chunks::<12>()
        .0
        .iter()
        .map(|part| Standing { used: number(&part[..6]), frees_at_ms: number(&part[6..]) });
    let verdict = match usize::from(*verdict) {
        0 => Verdict::Taken,
        255 => Verdict::Late,
        254 => Verdict::Foreign,
        place if place <= claims => Verdict::Denied(place - 1),
        _ => return Err(BadAnswer),
    };
    let score = if score.is_empty() { None } else { Some(read_score(score)?) };
    Ok(GroupAnswer { verdict, standings: standings.collect(), score })
}

/// Reads a score as it is kept.
///
/// # Errors
///
/// If it is none.
pub fn read_score(bytes: &[u8]) -> Result<Score, BadAnswer> {
    let text = std::str::from_utf8(bytes).map_err(|_| BadAnswer)?;
    let mut parts = text.split(' ');
    let mut next = || parts.next().ok_or(BadAnswer);
    let points = |text: &str| {
        let number = text.parse::<f64>().ok();
        number.filter(|it| it.is_finite() && *it >= 0.0).ok_or(BadAnswer)
    };
    let time = |text: &str| text.parse::<u64>().map_err(|_| BadAnswer);
    let score = Score {
        points: points(next()?)?,
        spent: points(next()?)?,
        decayed_at_unix_ms: time(next()?)?,
        updated_at_unix_ms: time(next()?)?,
    };
    if parts.next().is_some() { Err(BadAnswer) } else { Ok(score) }
}

fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
}
