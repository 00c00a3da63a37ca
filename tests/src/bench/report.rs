//! A benchmark's outcome: one object for programs, a table for people. It measures
//! nothing, and a goal that was missed is told like any other.

use std::fmt;

use anyhow::Result;
use serde::Serialize;

use super::machine::{self, Machine};
use super::sample::Samples;
use crate::times::Times;

/// What a benchmark found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Its name.
    pub bench: &'static str,
    /// The commit that was measured.
    pub commit: String,
    /// On what.
    pub machine: Machine,
    /// The measurements.
    pub rows: Vec<Row>,
    /// What we wanted of them.
    pub goals: Vec<Goal>,
}

impl Report {
    /// A report of this machine and commit.
    pub(super) fn new(bench: &'static str, rows: Vec<Row>, goals: Vec<Goal>) -> Result<Self> {
        let (commit, machine) = (machine::commit()?, Machine::current()?);
        Ok(Self { bench, commit, machine, rows, goals })
    }
}

/// One measurement, of ours and of a peer where there is one.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was measured.
    pub case: String,
    /// The unit of all values in the row.
    pub unit: &'static str,
    /// The median.
    pub value: f64,
    /// The least of the rounds.
    pub min: f64,
    /// The greatest of the rounds.
    pub max: f64,
    /// How many rounds.
    pub rounds: usize,
    /// What else was measured, in turn with ours.
    pub peer: Option<String>,
    /// The peer's median.
    pub peer_value: Option<f64>,
    /// Ours by the peer's: below 1 where ours is the smaller. Where both have rounds of
    /// the same times, the median of the rounds' ratios.
    pub ratio: Option<f64>,
}

impl Row {
    /// A row without a peer.
    pub(super) fn alone(case: impl Into<String>, unit: &'static str, ours: &Samples) -> Self {
        Self {
            case: case.into(),
            unit,
            value: rounded(ours.median()),
            min: rounded(ours.min()),
            max: rounded(ours.max()),
            rounds: ours.rounds(),
            peer: None,
            peer_value: None,
            ratio: None,
        }
    }

    /// A percentile of many times, in milliseconds.
    pub(super) fn percentile(percent: usize, case: &str, times: &Times) -> Self {
        let all = Self::alone(format!("p{percent}_{case}"), "ms", &times.each_ms().collect());
        Self { value: rounded(times.percentile_ms(percent)), ..all }
    }

    /// A row with a peer whose rounds were run in turn with ours.
    pub(super) fn paired(
        case: impl Into<String>,
        unit: &'static str,
        ours: &Samples,
        (peer, theirs): (&str, &Samples),
    ) -> Self {
        let ratios = ours.paired(theirs, |ours, theirs| ours / theirs);
        let row = Self::alone(case, unit, ours).beside(peer, theirs);
        Self { ratio: Some(rounded(ratios.median())), ..row }
    }

    /// The same beside a peer's rounds of other times.
    #[must_use]
    pub(super) fn beside(mut self, peer: &str, theirs: &Samples) -> Self {
        self.peer = Some(peer.to_owned());
        self.peer_value = Some(rounded(theirs.median()));
        self.ratio = Some(rounded(self.value / theirs.median()));
        self
    }
}

/// Three decimals: more than any of the measurements is worth, and readable.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

/// What we set ourselves, and whether it was reached.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Goal {
    /// Of what.
    pub name: String,
    /// The bound, in words of the form `<= 1.0`.
    pub goal: String,
    /// What it came to; nothing where it could not be measured.
    pub measured: Option<f64>,
    /// Whether it is within the bound.
    pub met: bool,
}

impl Goal {
    /// `measured` is to be at most `bound`.
    pub(super) fn at_most(name: &str, bound: f64, measured: f64) -> Self {
        let met = measured <= bound;
        Self::of(name, format!("<= {bound:?}"), measured, met)
    }

    /// `measured` is to be at least `bound`.
    pub(super) fn at_least(name: &str, bound: f64, measured: f64) -> Self {
        let met = measured >= bound;
        Self::of(name, format!(">= {bound:?}"), measured, met)
    }

    /// `measured` is to be less than `bound`.
    pub(super) fn below(name: &str, bound: f64, measured: f64) -> Self {
        let met = measured < bound;
        Self::of(name, format!("< {bound:?}"), measured, met)
    }

    fn of(name: &str, goal: String, measured: f64, met: bool) -> Self {
        Self { name: name.to_owned(), goal, measured: Some(rounded(measured)), met }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { kernel, cpu, cores } = &self.machine;
        writeln!(formatter, "{} at {} on {cores} x {cpu}, {kernel}", self.bench, self.commit)?;
        let heads = ["case", "unit", "ours", "min", "max", "rounds", "peer", "theirs", "ratio"];
        let rows = self.rows.iter().map(cells).collect();
        formatter.write_str(&table(&heads.map(str::to_owned), rows))?;
        let heads = ["goal", "bound", "measured", "verdict"];
        let goals = self.goals.iter().map(verdict).collect();
        formatter.write_str(&table(&heads.map(str::to_owned), goals))
    }
}

fn cells(row: &Row) -> Vec<String> {
    let number = |value: f64| format!("{value}");
    let maybe = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), number);
    vec![
        row.case.clone(),
        row.unit.to_owned(),
        number(row.value),
        number(row.min),
        number(row.max),
        row.rounds.to_string(),
        row.peer.clone().unwrap_or_else(|| "-".to_owned()),
        maybe(row.peer_value),
        maybe(row.ratio),
    ]
}

fn verdict(goal: &Goal) -> Vec<String> {
    let known = goal.measured.filter(|value| value.is_finite());
    let measured = known.map_or_else(|| "-".to_owned(), |value| format!("{value}"));
    let verdict = if goal.met { "met" } else { "NOT MET" };
    vec![goal.name.clone(), goal.goal.clone(), measured, verdict.to_owned()]
}

/// Columns as wide as their widest cell.
fn table(heads: &[String], rows: Vec<Vec<String>>) -> String {
    let mut lines = vec![heads.to_vec()];
    lines.extend(rows);
    let widths: Vec<usize> = (0..heads.len())
        .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = "\n".to_owned();
    for line in lines {
        let cells = line.iter().zip(&widths);
        let padded: Vec<String> = cells.map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(padded.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn report() -> Report {
        let ours: Samples = [17.2, 17.0, 30.0].into_iter().collect();
        let theirs: Samples = [18.1049, 18.0, 19.0].into_iter().collect();
        let row = Row::paired("innocent_v4", "ns", &ours, ("xdp-filter pass", &theirs));
        Report {
            bench: "datapath",
            commit: "abc".to_owned(),
            machine: Machine { kernel: "6".to_owned(), cpu: "c".to_owned(), cores: 2 },
            rows: vec![row, Row::alone("alone", "s", &ours)],
            goals: vec![Goal::at_most("a", 1.0, 0.95), Goal::below("b", 1.0, 1.0)],
        }
    }

    #[test]
    fn the_object_has_the_shape_that_all_benchmarks_share() {
        let object = serde_json::to_value(report()).expect("serializable");
        let expected = json!({
            "bench": "datapath", "commit": "abc",
            "machine": { "kernel": "6", "cpu": "c", "cores": 2 },
            "rows": [
                { "case": "innocent_v4", "unit": "ns", "value": 17.2, "min": 17.0, "max": 30.0,
                  "rounds": 3, "peer": "xdp-filter pass", "peer_value": 18.105, "ratio": 0.95 },
                { "case": "alone", "unit": "s", "value": 17.2, "min": 17.0, "max": 30.0,
                  "rounds": 3, "peer": null, "peer_value": null, "ratio": null },
            ],
            "goals": [
                { "name": "a", "goal": "<= 1.0", "measured": 0.95, "met": true },
                { "name": "b", "goal": "< 1.0", "measured": 1.0, "met": false },
            ],
        });
        assert_eq!(object, expected);
    }

    #[test]
    fn what_is_not_a_number_meets_no_goal() {
        let goal = Goal::at_most("a", 1.0, f64::NAN);
        assert!(!goal.met);
        assert_eq!(serde_json::to_value(goal).expect("serializable")["measured"], Value::Null);
    }

    #[test]
    fn the_table_says_which_goals_were_missed() {
        let text = report().to_string();
        assert!(text.contains("innocent_v4  ns    17.2  17   30"), "{text}");
        assert!(text.contains("b     < 1.0   1         NOT MET"), "{text}");
    }
}
