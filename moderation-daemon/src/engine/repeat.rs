//! Repeats: a browser's tab that goes on by itself breaks a rule a few times
//! within seconds and means it once. Whoever is faster than that is hammering,
//! and then everything counts, also what was passed over before.

use super::Repeats;

/// What is remembered of one bearer's violations of one type, as far as the
/// engine found them itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// When the window began, in milliseconds since 1970: with a violation that
    /// counted.
    pub from_unix_ms: u64,
    /// How many came after it in this window.
    pub after: u32,
    /// How many since the last one that counted.
    pub passed_over: u32,
    /// Whether all of this window count, since there were too many in the last.
    pub is_rush: bool,
}

/// What one violation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// One more of the same.
    Repeat,
    /// One that counts.
    Counts {
        /// How many before it have no record of their own.
        repeats: u32,
        /// How many of those count now after all.
        counted: u32,
    },
}

impl Run {
    /// What a violation now is, and what is remembered from then on.
    pub(super) fn next(before: Option<Self>, rule: Repeats, unix_ms: u64) -> (Told, Self) {
        let begun = Self { from_unix_ms: unix_ms, after: 0, passed_over: 0, is_rush: false };
        let Some(run) = before else { return (Told::Counts { repeats: 0, counted: 0 }, begun) };
        let elapsed_ms = unix_ms.saturating_sub(run.from_unix_ms);
        if elapsed_ms >= rule.window_ms {
            // Who was too fast until now is not a new visitor.
            let goes_on = elapsed_ms < rule.window_ms.saturating_mul(2);
            let is_rush = run.after > rule.free && goes_on;
            let told = Told::Counts { repeats: run.passed_over, counted: 0 };
            return (told, Self { is_rush, ..begun });
        }
        let after = run.after.saturating_add(1);
        if run.is_rush || after > rule.free {
            let (repeats, counted) = (run.passed_over, run.passed_over);
            let run = Self { after, passed_over: 0, ..run };
            return (Told::Counts { repeats, counted }, run);
        }
        (Told::Repeat, Self { after, passed_over: run.passed_over + 1, ..run })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Repeats = Repeats { window_ms: 2_000, free: 6 };

    /// How much violations at these moments count for.
    fn points(moments: impl IntoIterator<Item = u64>) -> u32 {
        let mut run = None;
        let mut points = 0;
        for at in moments {
            let (told, next) = Run::next(run, RULE, at);
            run = Some(next);
            if let Told::Counts { counted, .. } = told {
                points += 1 + counted;
            }
        }
        points
    }

    #[test]
    fn a_few_in_two_seconds_are_one_and_many_are_many() {
        let every = |ms: u64, count: u64| (0..count).map(move |i| i * ms);
        let cases = [
            ("one", points(every(0, 1)), 1),
            ("seven at once", points(every(0, 7)), 1),
            ("eight at once", points(every(0, 8)), 8),
            ("twenty at once", points(every(0, 20)), 20),
            ("a tab every 300 ms for ten seconds", points(every(300, 34)), 5),
            ("one every second for ten", points(every(1_000, 10)), 5),
            ("one every two seconds", points(every(2_000, 10)), 10),
            ("twenty within five seconds", points(every(250, 20)), 20),
            ("a hundred a second for five seconds", points(every(10, 500)), 500),
            ("two bursts far apart", points(every(0, 8).chain([60_000; 7])), 9),
            ("two bursts in a row", points(every(0, 8).chain([2_000; 7])), 15),
        ];
        for (what, got, want) in cases {
            assert_eq!(got, want, "{what}");
        }
    }

    #[test]
    fn what_was_passed_over_is_told_with_the_next_one_that_counts() {
        let mut run = None;
        let told: Vec<_> = [0, 500, 900, 2_000]
            .into_iter()
            .map(|at| {
                let (told, next) = Run::next(run, RULE, at);
                run = Some(next);
                told
            })
            .collect();
        let counts = |repeats| Told::Counts { repeats, counted: 0 };
        assert_eq!(told, [counts(0), Told::Repeat, Told::Repeat, counts(2)]);
    }

    #[test]
    fn who_was_too_fast_is_a_new_visitor_after_two_windows() {
        let run = Run { from_unix_ms: 10_000, after: 7, passed_over: 0, is_rush: true };
        for (at, want) in [(11_999, true), (12_000, true), (13_999, true), (14_000, false)] {
            assert_eq!(Run::next(Some(run), RULE, at).1.is_rush, want, "at {at}");
        }
    }

    #[test]
    fn a_clock_that_goes_back_makes_nothing_count_twice() {
        let (_, run) = Run::next(None, RULE, 10_000);
        assert_eq!(Run::next(Some(run), RULE, 5_000).0, Told::Repeat);
    }
}
