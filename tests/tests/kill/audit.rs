//! Compares what was acknowledged with what is there: in the kernel before the
//! restart, in store, engine and kernel after it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use moderation_daemon::clock;
use moderation_daemon::engine::Prefix;
use moderation_daemon::network::{BanMaps, Desired, Pins};
use moderation_tests::caller::Caller;
use moderation_tests::daemon::Daemon;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

use crate::load::Ledger;

/// Between the clocks' two readings, and what the daemon itself tolerates.
const TOLERANCE: Duration = Duration::from_secs(2);

/// What one user may hold: concurrency.max, by default.
const MOST_LEASES: usize = 2;

/// See the module. Bans and lifts are those of all rounds.
pub(crate) struct Audit {
    pins: Pins,
    store: PathBuf,
    bans: BTreeMap<u64, Value>,
    lifted: BTreeSet<u64>,
    lifting: BTreeSet<u64>,
    /// The highest total that was answered, by user and type.
    scores: HashMap<(String, String), f64>,
    violations: u64,
    /// Leases that are held, of the last round, with their holders.
    leases: BTreeMap<u64, String>,
    acknowledged_leases: u64,
    /// Bans up to here were compared one by one after an earlier round.
    checked: u64,
}

fn number(ban: &Value) -> u64 {
    ban["id"].as_u64().unwrap_or_default()
}

fn address(ban: &Value) -> Option<Prefix> {
    ban["address"].as_str()?.parse().ok()
}

fn is_over(ban: &Value) -> bool {
    ban["lifted_at"].is_string() || ban["remaining_ms"] == 0
}

impl Audit {
    pub(crate) fn new(daemon: &Daemon) -> Self {
        Self {
            pins: Pins::new(daemon.pin_root()),
            store: daemon.store_path(),
            bans: BTreeMap::new(),
            lifted: BTreeSet::new(),
            lifting: BTreeSet::new(),
            scores: HashMap::new(),
            violations: 0,
            leases: BTreeMap::new(),
            acknowledged_leases: 0,
            checked: 0,
        }
    }

    pub(crate) fn acknowledged_bans(&self) -> u64 {
        self.bans.len() as u64
    }

    pub(crate) fn acknowledged_lifts(&self) -> u64 {
        self.lifted.len() as u64
    }

    pub(crate) fn acknowledged_violations(&self) -> u64 {
        self.violations
    }

    /// Those that were held when the daemon was killed.
    pub(crate) fn acknowledged_leases(&self) -> u64 {
        self.acknowledged_leases
    }

    /// Adds what was acknowledged in a round.
    pub(crate) fn take(&mut self, ledgers: Vec<Ledger>) {
        for ledger in ledgers {
            for ban in ledger.bans {
                let twice = self.bans.insert(number(&ban), ban);
                assert!(twice.is_none(), "a number was used twice: {twice:?}");
            }
            self.lifted.extend(ledger.lifted);
            self.lifting.extend(ledger.lifting);
            self.violations += ledger.scores.len() as u64;
            self.acknowledged_leases += ledger.leases.len() as u64;
            self.leases.extend(ledger.leases);
            for (user, kind, total) in ledger.scores {
                let highest = self.scores.entry((user, kind)).or_default();
                *highest = highest.max(total);
            }
        }
    }

    /// With the daemon dead: what it said is enforced is in the kernel, what
    /// it said is lifted is not.
    pub(crate) fn check_kernel_before_restart(&self) -> Result<()> {
        let kernel = BanMaps::open(&self.pins)?.all()?;
        for (id, ban) in &self.bans {
            let Some(address) = address(ban) else { continue };
            ensure!(ban["enforced"] == true, "no reason not to enforce: {ban}");
            let is_blocked = kernel.get(address).is_some();
            ensure!(is_blocked || self.lifting.contains(id), "not in the kernel: {ban}");
            // Chatters have several bans; all others have an address each.
            let is_alone = ban["violation"] != "message_limit";
            ensure!(!(is_blocked && is_alone && self.lifted.contains(id)), "still there: {ban}");
        }
        Ok(())
    }

    /// With the daemon back.
    pub(crate) fn check(&mut self, daemon: &Daemon) -> Result<()> {
        let now_ns = clock::boot_ns();
        let listed = Caller::operator(daemon).bans("all=true")?;
        self.check_store(&listed)?;
        self.check_engine(daemon, &listed)?;
        check_kernel(&BanMaps::open(&self.pins)?.all()?, &listed, now_ns)?;
        self.check_leases(daemon)?;
        self.check_scores()?;
        self.checked = listed.iter().map(number).max().unwrap_or_default();
        Ok(())
    }

    /// No acknowledged ban is lost or changed, no acknowledged lift undone.
    fn check_store(&self, listed: &[Value]) -> Result<()> {
        let by_id: HashMap<u64, &Value> = listed.iter().map(|ban| (number(ban), ban)).collect();
        ensure!(by_id.len() == listed.len(), "a ban is listed twice");
        for (id, ban) in &self.bans {
            let stored = by_id.get(id).with_context(|| format!("lost: {ban}"))?;
            for field in ["user", "address", "reason", "violation", "created_at", "expires_at"] {
                ensure!(stored[field] == ban[field], "{field} changed: {ban} became {stored}");
            }
            let is_lifted = stored["lifted_at"].is_string();
            ensure!(is_lifted || !self.lifted.contains(id), "a lift is undone: {stored}");
            ensure!(!is_lifted || self.lifting.contains(id), "nobody lifted {stored}");
        }
        Ok(())
    }

    /// Every new ban, acknowledged or not, holds for user and address or for
    /// neither.
    fn check_engine(&self, daemon: &Daemon, listed: &[Value]) -> Result<()> {
        let mut app = Caller::app(daemon);
        let banned = |field: &str| {
            let of = listed.iter().filter(|ban| !is_over(ban));
            of.filter_map(|ban| ban[field].as_str()).collect::<BTreeSet<_>>()
        };
        let users = banned("user");
        let addresses: Vec<Prefix> =
            banned("address").iter().filter_map(|text| text.parse().ok()).collect();
        for ban in listed.iter().filter(|ban| number(ban) > self.checked) {
            if let Some(user) = ban["user"].as_str() {
                let path = format!("user={}", user.replace(' ', "%20"));
                ensure!(app.is_banned(&path)? == users.contains(user), "user of {ban}");
            }
            if let Some(text) = ban["address"].as_str() {
                let ip = text.split('/').next().unwrap_or(text);
                let is_banned = app.is_banned(&format!("ip={ip}"))?;
                // A block that many of them share is banned as a whole.
                let (ip, prefixes) = (ip.parse()?, &addresses);
                let want = prefixes.iter().any(|prefix| prefix.contains(ip));
                ensure!(is_banned == want, "address of {ban}");
            }
            ensure!(is_over(ban) || ban["enforced"] == true, "not enforced again: {ban}");
        }
        Ok(())
    }

    /// Whoever held a lease holds it still, and gets no more beside it than he
    /// may have. All are given back, so that the next round begins with none.
    fn check_leases(&mut self, daemon: &Daemon) -> Result<()> {
        let mut app = Caller::app(daemon);
        let mut held: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for (id, user) in std::mem::take(&mut self.leases) {
            app.put(&format!("/v1/leases/{id}")).with_context(|| format!("of {user}"))?;
            held.entry(user).or_default().push(id);
        }
        for (user, mut ids) in held {
            let body = serde_json::json!({ "user": user });
            while let Some(id) = app.post("/v1/leases", &body)?["lease"]["id"].as_u64() {
                ids.push(id);
            }
            ensure!(ids.len() <= MOST_LEASES, "{user} holds {ids:?}");
            for id in ids {
                app.delete(&format!("/v1/leases/{id}"))?;
            }
        }
        Ok(())
    }

    /// Each score is the sum of its violations since the last lift, and none is
    /// behind what was answered.
    fn check_scores(&self) -> Result<()> {
        let store = Connection::open_with_flags(&self.store, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let intact: String = store.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        ensure!(intact == "ok", "the database is damaged: {intact}");
        let scores = sums(&store, "SELECT bearer, type, points + spent FROM scores")?;
        let recorded = sums(&store, &since_lifts(">="))?;
        // What happened within a lift's own millisecond came before it or after it.
        let at_least = sums(&store, &since_lifts(">"))?;
        for (key, score) in &scores {
            let (least, most) = (at_least.get(key).unwrap_or(&0.0), recorded.get(key));
            let most = most.with_context(|| format!("{key:?} has a score without a violation"))?;
            ensure!((least..=most).contains(&score), "{key:?}: {score}, not {least} to {most}");
        }
        for (key, least) in at_least {
            ensure!(least == 0.0 || scores.contains_key(&key), "{key:?} has lost its score");
        }
        let lifted = sums(
            &store,
            "SELECT user, '', 1.0 FROM bans WHERE user IS NOT NULL AND lifted_at_ms IS NOT NULL",
        )?;
        for ((user, kind), total) in &self.scores {
            if lifted.contains_key(&(user.clone(), String::new())) {
                continue;
            }
            let stored = scores.get(&(user.clone(), kind.clone())).copied().unwrap_or_default();
            ensure!(stored >= *total, "{user} was told {total} for {kind} and has {stored}");
        }
        let count: i64 =
            store.query_row("SELECT count(*) FROM violations", [], |row| row.get(0))?;
        let acknowledged = self.violations;
        ensure!(u64::try_from(count)? >= acknowledged, "{count} violations of {acknowledged}");
        Ok(())
    }
}

/// The sum of somebody's points for each type of violation since the last lift.
fn since_lifts(since: &str) -> String {
    format!(
        "SELECT v.bearer, v.type, sum(CASE WHEN v.at_ms {since} coalesce(l.at_ms, 0)
                                      THEN v.points ELSE 0 END)
         FROM violations v LEFT JOIN
              (SELECT user AS bearer, max(lifted_at_ms) AS at_ms FROM bans
               WHERE user IS NOT NULL GROUP BY 1
               UNION ALL SELECT address, max(lifted_at_ms) FROM bans
               WHERE address IS NOT NULL GROUP BY 1) l
              ON l.bearer = v.bearer
         GROUP BY 1, 2"
    )
}

fn sums(store: &Connection, query: &str) -> Result<HashMap<(String, String), f64>> {
    let mut query = store.prepare(query)?;
    let rows = query.query_map([], |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The kernel holds the addresses of active bans and no others, each until the
/// last of its bans ends. `now_ns` is when they were listed.
fn check_kernel(kernel: &Desired, listed: &[Value], now_ns: u64) -> Result<()> {
    let kernel: HashMap<_, _> = kernel.iter().collect();
    let mut wanted: HashMap<Prefix, u64> = HashMap::new();
    for ban in listed.iter().filter(|ban| !is_over(ban)) {
        let Some(address) = address(ban) else { continue };
        let left_ms = ban["remaining_ms"].as_u64();
        let ends_ns = left_ms.map_or(u64::MAX, |left_ms| now_ns + left_ms * 1_000_000);
        let last = wanted.entry(address).or_default();
        *last = (*last).max(ends_ns);
    }
    let blocked: BTreeSet<_> = kernel.keys().collect();
    let banned: BTreeSet<_> = wanted.keys().collect();
    let apart: Vec<_> = blocked.symmetric_difference(&banned).collect();
    ensure!(apart.is_empty(), "kernel and store are apart in {apart:?}");
    for (address, ends_ns) in &wanted {
        let entry = kernel[address].expires_at_ns;
        let apart = Duration::from_nanos(entry.abs_diff(*ends_ns));
        ensure!(apart < TOLERANCE, "{address} ends {apart:?} apart");
        ensure!((entry == u64::MAX) == (*ends_ns == u64::MAX), "{address} ends or not");
    }
    Ok(())
}
