//! One caller's load: violations, events, bans, lifts and leases as fast as the daemon
//! answers, and a ledger of every answer. Ends when the daemon is gone.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use moderation_daemon::api::client::{Client, ClientError};
use moderation_daemon::network::{BanMaps, Pins};
use moderation_tests::daemon::Daemon;
use moderation_tests::random::Random;
use serde_json::{Value, json};

/// What the daemon acknowledged, and what it was asked last.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Bans as they were answered.
    pub(crate) bans: Vec<Value>,
    /// Numbers of bans whose lift was answered.
    pub(crate) lifted: BTreeSet<u64>,
    /// Numbers of bans whose lift was asked for, answered or not.
    pub(crate) lifting: BTreeSet<u64>,
    /// User, type and total of each violation that was answered.
    pub(crate) scores: Vec<(String, String, f64)>,
    /// Leases that were answered and that nobody has asked to end, with their
    /// holders.
    pub(crate) leases: BTreeMap<u64, String>,
}

/// See the module.
pub(crate) struct Load {
    app: Client,
    operator: Client,
    kernel: BanMaps,
    random: Random,
    /// Makes names and addresses that no other caller uses.
    prefix: [u8; 2],
    made: u16,
    ledger: Ledger,
}

impl Load {
    pub(crate) fn new(daemon: &Daemon, round: u64, caller: u64, random: Random) -> Result<Self> {
        let [.., round] = round.to_be_bytes();
        let [.., caller] = caller.to_be_bytes();
        let (app, operator) = (daemon.api(), daemon.admin());
        let ledger = Ledger::default();
        let kernel = BanMaps::open(&Pins::new(daemon.pin_root()))?;
        Ok(Self { app, operator, kernel, random, prefix: [round, caller], made: 0, ledger })
    }

    /// Until the connection breaks. An answer that is no success is a failure.
    pub(crate) fn run(mut self) -> Result<Ledger> {
        loop {
            let outcome = match self.random.below(12) {
                0..=2 => self.ban_by_violation(),
                3 => self.ban_by_operator(),
                4 | 5 => self.score(),
                6 => self.message(),
                7 | 8 => self.acquire(),
                9 => self.renew(),
                10 => self.release(),
                _ => self.lift(),
            };
            match outcome {
                Ok(()) => {}
                Err(error) if error.is::<ClientError>() => return Ok(self.ledger),
                Err(error) => return Err(error),
            }
        }
    }

    /// A user and an address that nobody had before.
    fn newcomer(&mut self) -> Value {
        self.made += 1;
        let ([round, caller], [high, low]) = (self.prefix, self.made.to_be_bytes());
        let ip = match self.random.below(2) {
            0 => format!("{}.{round}.{high}.{low}", 20 + caller),
            _ => format!("2001:db8:{round:x}{caller:02x}:{:x}::1", self.made),
        };
        let user = format!("{round} {caller} {}", self.made);
        match self.random.below(4) {
            0 => json!({ "user": user }),
            1 => json!({ "ip": ip }),
            _ => json!({ "user": user, "ip": ip }),
        }
    }

    fn ask(&mut self, path: &str, body: &Value) -> Result<Value> {
        let is_operators = path == "/v1/bans";
        let client = if is_operators { &mut self.operator } else { &mut self.app };
        let response = client.post(path, body)?;
        ensure!(response.is_success(), "{path} {body}: {} {}", response.status, response.body);
        Ok(response.body)
    }

    /// Enough points for a ban at once.
    fn ban_by_violation(&mut self) -> Result<()> {
        let mut body = self.newcomer();
        body["type"] = json!("non_browser");
        let answer = self.ask("/v1/violations", &body)?;
        ensure!(answer["ban"].is_object(), "20 points are a ban: {answer}");
        self.record(&body, &answer)
    }

    fn ban_by_operator(&mut self) -> Result<()> {
        let mut body = self.newcomer();
        let duration = self.random.pick(&["30m", "2h", "permanent"]);
        body["duration"] = json!(duration);
        let answer = self.ask("/v1/bans", &body)?;
        ensure!(answer["ban"].is_object(), "{answer}");
        self.record(&body, &answer)
    }

    /// Points for one of a few users whom all callers report.
    fn score(&mut self) -> Result<()> {
        let user = format!("regular {}", self.random.below(5));
        let kind = self.random.pick(&["logins", "concurrent", "illegal_model_request"]);
        let body = json!({ "type": kind, "user": user, "score": self.random.below(8) });
        let answer = self.ask("/v1/violations", &body)?;
        self.record(&body, &answer)
    }

    /// Messages from one place: after forty each is a violation, until the ban.
    fn message(&mut self) -> Result<()> {
        let [round, caller] = self.prefix;
        let (user, ip) = (format!("chatter {round} {caller}"), format!("19.{round}.{caller}.1"));
        let body = json!({ "type": "message", "user": user, "ip": ip });
        let answer = self.ask("/v1/events", &body)?;
        if answer["violation"].is_object() {
            self.record(&body, &answer)?;
        }
        Ok(())
    }

    /// A lease for one whom nobody else reports: he runs as much as he may.
    fn acquire(&mut self) -> Result<()> {
        let [round, caller] = self.prefix;
        let user = format!("runner {round} {caller}");
        let body = json!({ "user": user });
        let answer = self.ask("/v1/leases", &body)?;
        match answer["lease"]["id"].as_u64() {
            Some(id) => drop(self.ledger.leases.insert(id, user)),
            None if answer["violation"].is_object() => self.record(&body, &answer)?,
            // Banned by then, which was written down when it fell.
            None => {}
        }
        Ok(())
    }

    fn renew(&mut self) -> Result<()> {
        let Some(id) = self.held() else { return Ok(()) };
        let response = self.app.put(&format!("/v1/leases/{id}"))?;
        ensure!(response.is_success(), "lease {id}: {} {}", response.status, response.body);
        Ok(())
    }

    fn release(&mut self) -> Result<()> {
        let Some(id) = self.held() else { return Ok(()) };
        self.ledger.leases.remove(&id);
        let response = self.app.delete(&format!("/v1/leases/{id}"))?;
        ensure!(response.is_success(), "lease {id}: {} {}", response.status, response.body);
        Ok(())
    }

    fn held(&mut self) -> Option<u64> {
        let ids: Vec<_> = self.ledger.leases.keys().copied().collect();
        (!ids.is_empty()).then(|| self.random.pick(&ids))
    }

    /// Writes an answer down. Whoever reads `enforced: true` finds it true.
    fn record(&mut self, asked: &Value, answer: &Value) -> Result<()> {
        if let (Some(user), Some(total)) = (asked["user"].as_str(), answer["score"].as_f64()) {
            let kind = answer["violation"]["type"].as_str().unwrap_or_default();
            self.ledger.scores.push((user.to_owned(), kind.to_owned(), total));
        }
        let ban = &answer["ban"];
        if let Some(address) = ban["address"].as_str() {
            let is_blocked = self.kernel.get(address.parse()?)?.is_some();
            ensure!(is_blocked || ban["enforced"] != true, "said too early: {ban}");
        }
        if ban.is_object() {
            self.ledger.bans.push(ban.clone());
        }
        Ok(())
    }

    /// Lifts one of the own bans.
    fn lift(&mut self) -> Result<()> {
        let ids = self.ledger.bans.iter().filter_map(|ban| ban["id"].as_u64());
        let ids: Vec<_> = ids.filter(|id| !self.ledger.lifting.contains(id)).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let id = self.random.pick(&ids);
        self.ledger.lifting.insert(id);
        let response = self.operator.delete(&format!("/v1/bans?id={id}"))?;
        ensure!(response.is_success(), "ban {id}: {} {}", response.status, response.body);
        self.ledger.lifted.insert(id);
        Ok(())
    }
}
