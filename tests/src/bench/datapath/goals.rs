//! What we want of the data path, read off the rows. Measures nothing.

use crate::bench::report::{Goal, Row};

use super::case::{Case, Family, Kind, LEVELS, Sources, Tagging};

/// What a SYN may cost beyond any other packet of an innocent, in nanoseconds.
const SYN_BOUND_NS: f64 = 40.0;

/// A case with what it came to.
pub(super) struct Measured {
    pub(super) case: Case,
    pub(super) row: Row,
}

/// All goals, each for the worst of its rows, and for plain IPv4 from one source and
/// from random ones, where that was measured.
pub(super) fn of(all: &[Measured]) -> Vec<Goal> {
    let full: Vec<&Measured> = all.iter().filter(|one| one.case.bans == LEVELS[3]).collect();
    let ratios = |kind| ratios(&full, kind);
    let extra = syn_extra(&full, Kind::InnocentSyn);
    let flood = syn_extra(&full, Kind::ForgedFlood);
    let goals = [
        ("innocent_vs_xdp_filter_pass", 1.0, ratios(Kind::Innocent)),
        ("banned_vs_xdp_filter_drop", 1.0, ratios(Kind::Banned)),
        ("innocent_syn_extra_ns", SYN_BOUND_NS, extra),
        ("forged_flood_syn_extra_ns", SYN_BOUND_NS, flood),
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

/// Ours by theirs, for each row of a kind.
fn ratios(all: &[&Measured], kind: Kind) -> Vec<(Case, f64)> {
    let of_kind = all.iter().filter(|one| one.case.kind == kind);
    of_kind.map(|one| (one.case, one.row.ratio.unwrap_or(f64::NAN))).collect()
}

/// What each SYN of a kind costs beyond the packet of an innocent that is otherwise like it.
fn syn_extra(all: &[&Measured], kind: Kind) -> Vec<(Case, f64)> {
    let plain = |case: Case| {
        let like_it = Case { kind: Kind::Innocent, ..case };
        let found = all.iter().find(|one| one.case == like_it);
        found.map_or(f64::NAN, |one| one.row.value)
    };
    let of_kind = all.iter().filter(|one| one.case.kind == kind);
    of_kind.map(|one| (one.case, one.row.value - plain(one.case))).collect()
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

    fn measured(kind: Kind, family: Family, ours: f64, theirs: f64) -> Measured {
        let case = Case {
            kind,
            family,
            tagging: Tagging::Plain,
            sources: Sources::Random,
            bans: LEVELS[3],
        };
        let (ours, theirs) =
            ([ours].into_iter().collect(), [theirs].into_iter().collect::<Samples>());
        Measured { case, row: Row::alone(case.name(), "ns", &ours).beside("x", &theirs) }
    }

    #[test]
    fn the_worst_row_counts_and_the_plain_one_is_told() {
        let mut all = Vec::new();
        for (family, slower) in [(Family::V4, 0.0), (Family::V6, 15.0)] {
            all.push(measured(Kind::Innocent, family, 10.0 + slower, 20.0));
            all.push(measured(Kind::Banned, family, 10.0, 20.0));
            all.push(measured(Kind::InnocentSyn, family, 45.0, 20.0));
            all.push(measured(Kind::ForgedFlood, family, 52.0, 20.0));
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
