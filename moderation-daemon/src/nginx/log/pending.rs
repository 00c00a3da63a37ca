//! What nginx asked about and has not told the end of. Pure. A request of which no line
//! comes in time is lost, which is counted and changes nothing: lines are sent once, and
//! the kernel's queue for them is short.

use hashlink::LinkedHashMap;

/// nginx's name for a request: `$request_id`, 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestName(u128);

impl RequestName {
    /// `None`: nginx writes none like that.
    pub fn parse(text: &str) -> Option<Self> {
        let is_hex = text.len() == 32 && text.bytes().all(|it| it.is_ascii_hexdigit());
        is_hex.then(|| u128::from_str_radix(text, 16).ok().map(Self))?
    }
}

/// Requests by name, each with what is to be known when its end is told; the longest
/// pending first.
#[derive(Debug)]
pub struct Pending<T> {
    requests: LinkedHashMap<RequestName, Asked<T>>,
    bound: usize,
    patience_ms: u64,
}

#[derive(Debug)]
struct Asked<T> {
    what: T,
    at_boot_ms: u64,
}

impl<T> Pending<T> {
    /// None yet, and never more than `bound`. One of which nothing is told within
    /// `patience_ms` is lost.
    pub fn new(bound: usize, patience_ms: u64) -> Self {
        Self { requests: LinkedHashMap::new(), bound: bound.max(1), patience_ms }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// nginx asked. Where there is no room, the longest pending is given up: it is most
    /// probably lost. Says whether that happened. A request that nginx redirects within
    /// itself is asked about again, and counts from then on.
    pub fn ask(&mut self, name: RequestName, what: T, now_boot_ms: u64) -> bool {
        self.requests.remove(&name);
        let is_full = self.requests.len() >= self.bound;
        if is_full {
            self.requests.pop_front();
        }
        self.requests.insert(name, Asked { what, at_boot_ms: now_boot_ms });
        is_full
    }

    /// Its end is told: what was to be known, once.
    pub fn tell(&mut self, name: RequestName) -> Option<T> {
        self.requests.remove(&name).map(|asked| asked.what)
    }

    /// Gives up those of which nothing was told in time; how many they are.
    pub fn sweep(&mut self, now_boot_ms: u64) -> usize {
        let mut lost = 0;
        while let Some((_, asked)) = self.requests.front() {
            if now_boot_ms.saturating_sub(asked.at_boot_ms) < self.patience_ms {
                break;
            }
            self.requests.pop_front();
            lost += 1;
        }
        lost
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn name(number: u128) -> RequestName {
        RequestName::parse(&format!("{number:032x}")).expect("it is one")
    }

    #[test]
    fn a_name_is_what_nginx_makes_and_nothing_else() {
        let good = "0123456789abcdef0123456789ABCDEF";
        assert!(RequestName::parse(good).is_some());
        for bad in ["", "0", &good[1..], &format!("{good}0"), &good.replace('0', "+"), "-"] {
            assert_eq!(RequestName::parse(bad), None, "{bad:?}");
        }
        assert_eq!(RequestName::parse(&"é".repeat(16)), None, "32 bytes, and no digits");
    }

    #[test]
    fn what_is_told_is_told_once() {
        let mut pending = Pending::new(10, 1_000);
        assert!(!pending.ask(name(1), "login", 0));
        assert_eq!(pending.tell(name(2)), None);
        assert_eq!(pending.tell(name(1)), Some("login"));
        assert_eq!(pending.tell(name(1)), None);
    }

    #[test]
    fn what_is_not_told_in_time_is_lost_to_the_millisecond() {
        let mut pending = Pending::new(10, 1_000);
        pending.ask(name(1), (), 0);
        pending.ask(name(2), (), 1);
        assert_eq!(pending.sweep(999), 0);
        assert_eq!(pending.sweep(1_000), 1);
        assert_eq!((pending.tell(name(1)), pending.tell(name(2))), (None, Some(())));
    }

    #[test]
    fn a_request_that_is_asked_about_again_waits_from_then_on() {
        let mut pending = Pending::new(2, 1_000);
        pending.ask(name(1), "first", 0);
        pending.ask(name(2), "other", 500);
        assert!(!pending.ask(name(1), "second", 900), "it takes its own place");
        assert_eq!(pending.sweep(1_500), 1, "the other");
        assert_eq!(pending.tell(name(1)), Some("second"));
    }

    proptest! {
        #[test]
        fn never_more_than_the_bound_and_none_twice(
            steps in prop::collection::vec((0_u8..3, 0_u128..20, 0_u64..400), 0..200),
        ) {
            let (mut pending, mut model) = (Pending::new(8, 1_000), HashMap::new());
            let (mut now, mut asked, mut given_up, mut told, mut lost) = (0, 0, 0, 0, 0);
            for (act, number, wait) in steps {
                now += wait;
                match act {
                    0 => {
                        let again = pending.tell(name(number)).is_some();
                        told += usize::from(again);
                        model.remove(&number);
                        given_up += usize::from(pending.ask(name(number), number, now));
                        model.insert(number, now);
                        asked += 1;
                    }
                    1 => {
                        if let Some(what) = pending.tell(name(number)) {
                            prop_assert_eq!(what, number);
                            let at: Option<u64> = model.remove(&number);
                            prop_assert!(at.is_some(), "it was asked about");
                            told += 1;
                        }
                    }
                    _ => {
                        lost += pending.sweep(now);
                        model.retain(|_, at| now - *at < 1_000);
                        prop_assert!(pending.len() <= model.len());
                    }
                }
                prop_assert!(pending.len() <= 8);
                prop_assert_eq!(asked, pending.len() + given_up + told + lost);
            }
        }
    }
}
