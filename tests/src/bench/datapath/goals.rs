//! What we want of the data path, read off the rows. Measures nothing.

use crate::bench::report::{Goal, Row};

use super::case::{Case, Family, Kind, LEVELS, Sources, Tagging};

/// What a SYN may cost beyond any other packet of an innocent, in nanoseconds.
const SYN_BOUND_NS: f64 = 40.0;

/// A case with what it came to.
pub(super) struct Measured {
    pub(super) case: Case,
    pub(super) row: Row,
    /// What a SYN cost beyond the same packet without it, in nanoseconds.
    pub(super) syn_extra: Option<f64>,
}

/// All goals, each for the worst of its rows, and for plain IPv4 from one source and
/// from random ones, where that was measured.
pub(super) fn of(all: &[Measured]) -> Vec<Goal> {
    let full: Vec<&Measured> = all.iter().filter(|one| one.case.bans == LEVELS[3]).collect();
    let of_kind = |kind| full.iter().filter(move |one| one.case.kind == kind);
    let ratios = |kind| of_kind(kind).map(|one| (one.case, number(one.row.ratio))).collect();
    let extras = |kind| of_kind(kind).map(|one| (one.case, number(one.syn_extra))).collect();
    let goals: [(&str, f64, Found); 4] = [
        ("innocent_vs_xdp_filter_pass", 1.0, ratios(Kind::Innocent)),
        ("banned_vs_xdp_filter_drop", 1.0, ratios(Kind::Banned)),
        ("innocent_syn_extra_ns", SYN_BOUND_NS, extras(Kind::InnocentSyn)),
        ("forged_flood_syn_extra_ns", SYN_BOUND_NS, extras(Kind::ForgedFlood)),
    ];
    let mut list = Vec::new();
    for (name, bound, found) in goals {
        for (suffix, sources) in [("v4", Sources::One), ("v4_random", Sources::Random)] {
            let value = plain_v4(&found, sources);
            list.extend(
                value.map(|value| Goal::at_most(&format!("{name}_{suffix}"), bound, value)),
            );
        }
        list.push(Goal::at_most(&format!("{name}_worst"), bound, worst(&found)));
    }
    list
}

/// What was found for each row of a kind.
type Found = Vec<(Case, f64)>;

fn number(value: Option<f64>) -> f64 {
    value.unwrap_or(f64::NAN)
}

fn worst(found: &[(Case, f64)]) -> f64 {
    // Whatever is not a number is worse than any number.
    found.iter().map(|(_, value)| *value).max_by(f64::total_cmp).unwrap_or(f64::NAN)
}

fn plain_v4(found: &[(Case, f64)], sources: Sources) -> Option<f64> {
    let wanted = (Family::V4, Tagging::Plain, sources);
    let is_wanted = |case: &Case| (case.family, case.tagging, case.sources) == wanted;
    found.iter().find(|(case, _)| is_wanted(case)).map(|(_, value)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::sample::Samples;

    fn measured(kind: Kind, family: Family, ratio: f64, syn_extra: Option<f64>) -> Measured {
        let (tagging, sources) = (Tagging::Plain, Sources::Random);
        let case = Case { kind, family, tagging, sources, bans: LEVELS[3] };
        let (ours, theirs): (Samples, Samples) =
            ([ratio].into_iter().collect(), [1.0].into_iter().collect());
        Measured { case, row: Row::paired(case.name(), "ns", &ours, ("x", &theirs)), syn_extra }
    }

    #[test]
    fn the_worst_row_counts_and_the_plain_one_is_told() {
        let mut all = Vec::new();
        for (family, more) in [(Family::V4, 0.0), (Family::V6, 0.75)] {
            all.push(measured(Kind::Innocent, family, 0.5 + more, None));
            all.push(measured(Kind::Banned, family, 0.5, None));
            all.push(measured(Kind::InnocentSyn, family, 9.0, Some(35.0 - more)));
            all.push(measured(Kind::ForgedFlood, family, 9.0, Some(42.0)));
        }
        let told: Vec<_> = of(&all).iter().map(|goal| (goal.measured, goal.met)).collect();
        let expected = [
            (0.5, true),
            (1.25, false),
            (0.5, true),
            (0.5, true),
            (35.0, true),
            (35.0, true),
            (42.0, false),
            (42.0, false),
        ];
        assert_eq!(told, expected.map(|(value, met)| (Some(value), met)));
    }

    #[test]
    fn what_was_not_measured_meets_no_goal() {
        assert!(of(&[]).iter().all(|goal| !goal.met));
    }
}
