//! `GET /v1/doctor`: what works between this host and the services that it uses, what does
//! not, and what to do about it. It looks when it is asked, and mends nothing.

mod nginx;
#[cfg(feature = "redis")]
mod redis;

use axum::extract::State;
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    Context,
    paths::{Operation, Paths},
};

pub(super) fn routes() -> Paths {
    let examined = Operation::get("/v1/doctor", "How the services stand, and what to do");
    Paths::new().on(examined.answers::<Report>(), doctor)
}

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Grade {
    /// As it should be.
    Ok,
    /// It works, but look at it.
    Warning,
    /// It does not work.
    Problem,
}

/// One thing that was looked at.
#[derive(Debug, Serialize, JsonSchema)]
struct Finding {
    check: &'static str,
    grade: Grade,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, text: impl Into<String>) -> Self {
        Self { check, grade: Grade::Ok, text: text.into(), advice: None }
    }

    fn wrong(
        check: &'static str,
        grade: Grade,
        text: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { check, grade, text: text.into(), advice: Some(advice.into()) }
    }
}

/// All about one service.
#[derive(Debug, Serialize, JsonSchema)]
struct Section {
    name: &'static str,
    findings: Vec<Finding>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Report {
    sections: Vec<Section>,
}

/// A section for each service that bans or counts are shared by, and for nginx.
async fn doctor(State(context): State<Context>) -> axum::Json<Report> {
    let sections = vec![
        Section { name: "mongodb", findings: mongodb(&context).await },
        Section { name: "redis", findings: redis_findings(&context).await },
        Section { name: "nginx", findings: nginx::findings(&context) },
    ];
    axum::Json(Report { sections })
}

#[cfg(feature = "redis")]
use self::redis::findings as redis_findings;

#[cfg(not(feature = "redis"))]
async fn redis_findings(_: &Context) -> Vec<Finding> {
    vec![Finding::ok("build", "this program was built without Redis")]
}

#[cfg(not(feature = "mongodb"))]
async fn mongodb(_: &Context) -> Vec<Finding> {
    vec![Finding::ok("build", "this program was built without MongoDB")]
}

#[cfg(feature = "mongodb")]
async fn mongodb(context: &Context) -> Vec<Finding> {
    let (Some(status), Some(settings)) = (&context.sharing, &context.config.mongodb) else {
        return vec![Finding::ok("configuration", "bans are not shared (mongodb.enabled)")];
    };
    let mut findings = vec![sharing::outbox(status)];
    findings.extend(sharing::messages(status));
    let Some(mongo) = status.mongo() else {
        findings.push(sharing::connecting(status));
        return findings;
    };
    if settings.violations.is_some() {
        findings.push(sharing::records(status));
    }
    findings.push(sharing::name(status, settings));
    let asked = crate::clock::now().unix_ms;
    match mongo.examine().await {
        Ok(examined) => findings.extend(sharing::examined(&examined, settings, asked)),
        Err(error) => findings.push(sharing::failed(&error)),
    }
    findings
}

#[cfg(feature = "mongodb")]
mod sharing {
    use super::{Finding, Grade};
    use crate::{
        clock,
        config::Mongodb,
        share::{RecordsView, ShareStatus},
        store::mongo::{Examined, Kind, MongoError},
    };

    pub(super) fn outbox(status: &ShareStatus) -> Finding {
        let (outbox, view) = (status.outbox(), status.view());
        let text = format!("{} changes wait; {}", outbox.rows(), view.state.name());
        if outbox.has_gap() {
            let advice = "there were more than mongodb.max_waiting; all bans are compared next";
            return Finding::wrong("outbox", Grade::Warning, text, advice);
        }
        match (view.problem, view.trouble) {
            (Some(problem), _) => {
                let text = format!("{text}: {problem}");
                Finding::wrong("outbox", Grade::Problem, text, problem.advice())
            }
            (None, Some(trouble)) => {
                let text = format!("{text}: {trouble}");
                Finding::wrong("outbox", Grade::Warning, text, "see the log of moderationd")
            }
            (None, None) => Finding::ok("outbox", text),
        }
    }

    /// Bans by message; `None`: there is no Redis for them.
    pub(super) fn messages(status: &ShareStatus) -> Option<Finding> {
        let view = status.view().messages;
        let advice = "see the section redis; bans travel by documents meanwhile";
        let wrong = |text: String| Finding::wrong("messages", Grade::Warning, text, advice);
        if !view.is_used {
            return None;
        }
        Some(match (view.is_listening, view.fault) {
            (false, _) => wrong("nobody is listened to just now".to_owned()),
            (true, Some(fault)) => wrong(format!("nothing can be said: {}", fault.name())),
            (true, None) => Finding::ok("messages", "bans travel by message, too"),
        })
    }

    pub(super) fn name(status: &ShareStatus, settings: &Mongodb) -> Finding {
        let host = &settings.host;
        if status.view().has_twin {
            let text = format!("another host is called {host}, too");
            let advice = "give each host a name of its own (mongodb.host): whose bans are whose \
                          nobody can tell";
            return Finding::wrong("name", Grade::Problem, text, advice);
        }
        Finding::ok("name", format!("no other host is called {host}"))
    }

    pub(super) fn connecting(status: &ShareStatus) -> Finding {
        match status.view().problem {
            Some(problem) => failed(&problem),
            None => {
                let advice = "ask again in a moment";
                Finding::wrong("connection", Grade::Warning, "not connected yet", advice)
            }
        }
    }

    pub(super) fn failed(error: &MongoError) -> Finding {
        Finding::wrong("connection", Grade::Problem, error.to_string(), error.advice())
    }

    pub(super) fn examined(
        examined: &Examined,
        settings: &Mongodb,
        asked_unix_ms: u64,
    ) -> Vec<Finding> {
        let mut findings = vec![
            Finding::ok("connection", format!("mongod {}", examined.version)),
            rights(examined),
            kind(examined),
            indexes(examined),
            clock_skew(examined, settings, asked_unix_ms),
        ];
        findings.extend(
            examined
                .records
                .as_ref()
                .map(|(unindexed, may_write)| record_indexes(unindexed, *may_write)),
        );
        findings
    }

    pub(super) fn records(status: &ShareStatus) -> Finding {
        let RecordsView { backlog, problem } = status.records();
        let text = format!("{} wait", backlog.waiting());
        match problem {
            None => Finding::ok("violations", text),
            Some(problem) => {
                let advice = "they wait for store.retention at most; see the log of moderationd";
                Finding::wrong("violations", Grade::Problem, format!("{text}: {problem}"), advice)
            }
        }
    }

    fn record_indexes(unindexed: &[&str], may_write: bool) -> Finding {
        let check = "violation indexes";
        if !may_write {
            let text = "not permitted: to write violations";
            let advice = "give the user of MONGO_URI the role readWrite on the database";
            return Finding::wrong(check, Grade::Problem, text, advice);
        }
        if unindexed.is_empty() {
            return Finding::ok(check, "every question has one");
        }
        let text = format!("no index answers: {}", unindexed.join(", "));
        let advice =
            "let the user of MONGO_URI make indexes; missing ones are made within a minute";
        Finding::wrong(check, Grade::Problem, text, advice)
    }

    fn rights(examined: &Examined) -> Finding {
        if examined.denied.is_empty() {
            return Finding::ok("rights", "read, write and follow");
        }
        let text = format!("not permitted: {}", examined.denied.join(", "));
        let advice = "give the user of MONGO_URI the role readWrite on the database";
        Finding::wrong("rights", Grade::Problem, text, advice)
    }

    fn kind(examined: &Examined) -> Finding {
        match (examined.kind, examined.members) {
            (Kind::Alone, _) => {
                let advice = "make it a replica set, of one member if need be: bans travel faster";
                let text = "no replica set: it is asked for changes";
                Finding::wrong("replica set", Grade::Warning, text, advice)
            }
            (Kind::Telling, Some((members, well))) if well < members => {
                let text = format!("{well} of {members} members are well");
                let advice = "look at the members that are down: rs.status()";
                Finding::wrong("replica set", Grade::Warning, text, advice)
            }
            (Kind::Telling, Some((members, _))) => {
                Finding::ok("replica set", format!("{members} members, all well"))
            }
            (Kind::Telling, None) => Finding::ok("replica set", "it tells of changes"),
        }
    }

    fn indexes(examined: &Examined) -> Finding {
        if !examined.unindexed.is_empty() {
            let text = format!("no index answers: {}", examined.unindexed.join(", "));
            let advice = "let the user of MONGO_URI make indexes, and restart moderationd";
            return Finding::wrong("indexes", Grade::Problem, text, advice);
        }
        if !examined.missing_indexes.is_empty() {
            let text = format!("not ours: {}", examined.missing_indexes.join(", "));
            let advice = "another index on the same field is in their place; documents that are \
                          over may stay until LibreChat reads them";
            return Finding::wrong("indexes", Grade::Warning, text, advice);
        }
        Finding::ok("indexes", "every question has one")
    }

    fn clock_skew(examined: &Examined, settings: &Mongodb, asked_unix_ms: u64) -> Finding {
        let Some(server) = examined.server_unix_ms else {
            return Finding::ok("clock", "the database does not tell its time");
        };
        let now = clock::now().unix_ms;
        // Its answer is from some moment in between.
        let skew_ms = server.saturating_sub(now).max(asked_unix_ms.saturating_sub(server));
        let bound = u64::try_from(settings.clock_skew.as_millis()).unwrap_or(u64::MAX);
        let text = format!("at most {skew_ms} ms apart from the database");
        if skew_ms > bound {
            let advice = "synchronize the clocks (chrony, systemd-timesyncd): deleted documents \
                          may be taken for expired ones, or the reverse";
            return Finding::wrong("clock", Grade::Problem, text, advice);
        }
        Finding::ok("clock", text)
    }
}
