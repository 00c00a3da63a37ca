//! Whether the dashboard and the alert rules of `observability/` ask for what there is:
//! metrics and labels by their names, and values of labels.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::*;
use crate::{
    ledger::Alarm as LedgerAlarm,
    nginx::{generation::End, token::Refused},
    sharing::Fault,
};

/// The labels of each series that there can be, with their values.
type Exposed = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// What Prometheus adds.
const FOREIGN_METRICS: [&str; 1] = ["up"];
const FOREIGN_LABELS: [&str; 2] = ["instance", "job"];
/// What PromQL has words for, beside functions, which have a bracket behind them.
const WORDS: [&str; 7] = ["and", "or", "unless", "by", "without", "on", "ignoring"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A daemon's metrics to which everything has happened.
fn exposed() -> Exposed {
    let metrics = Metrics::new();
    let kind = ViolationType::all().next().expect("there are some");
    for verdict in [Verdict::Allow, Verdict::Deny] {
        metrics.judged(What::of(&Act::Acquire), verdict);
    }
    metrics.violated(kind);
    metrics.repeated(kind);
    metrics.punished(&PenaltyKind::RemoveContent);
    for refusal in [BanRefusal::ProtectedUser, BanRefusal::Full, BanRefusal::Runaway] {
        metrics.ban_refused(refusal);
    }
    metrics.imported(&Added { full: 1, ..Added::default() });
    metrics.restored(1, &RestoredWindows::default());
    metrics.ledger_failed("gone");
    LedgerAlarm::ALL.into_iter().for_each(|alarm| metrics.ledger_alarm(alarm));
    for state in ShareState::ALL {
        metrics.ledger_state.get_or_create(&StateLabels { state: state.name() }).set(0);
    }
    metrics.ledger_documents.get_or_create(&KindLabels { kind: "signed" }).set(1);
    metrics.overflow(Table::Windows);
    metrics.problem("overloaded");
    metrics.log.refused("peer");
    metrics.messages.refused("forged");
    metrics.messages.missed("unsaid", 1);
    metrics.nginx.undecided("overloaded");
    metrics.nginx.generation_ended(End::Silent);
    metrics.nginx.refused(Refused::Forged);
    Fault::ALL.into_iter().for_each(|fault| metrics.sharing.failed(fault));
    series(&metrics.render(&snapshot()))
}

fn snapshot() -> Snapshot {
    Snapshot {
        size: Size::default(),
        fill: Fill { exact: 0, networks: 0, enforced: 0 },
        max: (1, 1),
        max_windows: 1,
        windows_age_ms: 0,
        imported: 0,
        bans_stopped: false,
        bans_enforced: 0,
        queue_length: 0,
        kernel_open: true,
        interfaces: vec![("eth0".to_owned(), Some(XdpMode::Native))],
        packets: Reason::ALL.map(|reason| (reason, PacketCounter::default())).to_vec(),
        alarms: Alarm::ALL.map(|alarm| (alarm, 0)).to_vec(),
    }
}

/// OpenMetrics, as far as our labels go: no value of ours has a brace or a comma in it.
fn series(text: &str) -> Exposed {
    let mut exposed = Exposed::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().expect("a line has a name");
        let labels = exposed.entry(name.to_owned()).or_default();
        let inside = line.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
        let pairs = inside.into_iter().flat_map(|(inside, _)| inside.split(','));
        for (label, value) in pairs.filter_map(|pair| pair.split_once('=')) {
            let values = labels.entry(label.to_owned()).or_default();
            values.insert(value.trim_matches('"').to_owned());
        }
    }
    exposed
}

/// What is wrong with a question in PromQL, and the labels that it can answer with.
struct Query<'a> {
    exposed: &'a Exposed,
    labels: BTreeSet<String>,
    problems: Vec<String>,
}

impl<'a> Query<'a> {
    fn of(text: &str, exposed: &'a Exposed) -> Self {
        let labels = FOREIGN_LABELS.map(str::to_owned).into();
        let mut query = Self { exposed, labels, problems: Vec::new() };
        query.read(text);
        query
    }

    fn read(&mut self, text: &str) {
        let is_part = |it: char| it.is_ascii_alphanumeric() || it == '_';
        let mut lists = Vec::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            if first.is_ascii_digit() || first == '[' || first == '$' {
                let end = rest.find(|it| !is_part(it) && !"$[].".contains(it));
                rest = &rest[end.unwrap_or(rest.len())..];
            } else if is_part(first) {
                let (word, behind) =
                    rest.split_at(rest.find(|it| !is_part(it)).unwrap_or(rest.len()));
                rest = behind;
                let next = behind.trim_start();
                if matches!(word, "by" | "without" | "on" | "ignoring") {
                    let (list, behind) = next.split_once(')').expect("a list ends");
                    lists.extend(list.trim_start_matches('(').split(',').map(str::trim));
                    rest = behind;
                } else if let Some(behind) = behind.strip_prefix('{') {
                    let (matchers, behind) = behind.split_once('}').expect("a selector ends");
                    self.metric(word, matchers);
                    rest = behind;
                } else if !is_function(next) && !WORDS.contains(&word) {
                    self.metric(word, "");
                }
            } else {
                rest = &rest[first.len_utf8()..];
            }
        }
        for label in lists {
            self.knows(label);
        }
    }

    fn metric(&mut self, name: &str, matchers: &str) {
        let nothing = BTreeMap::new();
        let found = self.exposed.get(name);
        if found.is_none() && !FOREIGN_METRICS.contains(&name) {
            self.problems.push(format!("there is no metric {name}"));
        }
        let labels = found.unwrap_or(&nothing);
        self.labels.extend(labels.keys().cloned());
        for matcher in matchers.split(',').filter(|it| !it.is_empty()) {
            let (label, value) = matcher.split_once('=').expect("a matcher has a sign");
            let value = value.trim_start_matches('~').trim_matches('"');
            let Some(values) = labels.get(label) else {
                if !FOREIGN_LABELS.contains(&label) {
                    self.problems.push(format!("{name} has no label {label}"));
                }
                continue;
            };
            for one in value.split('|').filter(|one| !values.contains(*one)) {
                self.problems.push(format!("no {label} of {name} is {one}"));
            }
        }
    }

    fn knows(&mut self, label: &str) {
        if !self.labels.contains(label) {
            self.problems.push(format!("nothing here has a label {label}"));
        }
    }

    /// Labels that a text names, as `{{reason}}` or `{{ $labels.reason }}`.
    fn text(&mut self, text: &str) {
        let inside = text.split("{{").skip(1).filter_map(|part| part.split_once("}}"));
        for (inside, _) in inside {
            let word = inside.split('|').next().unwrap_or_default().trim();
            let label = word.strip_prefix("$labels.").unwrap_or(word);
            if label != "$value" {
                self.knows(label);
            }
        }
    }
}

/// Whether what stands before it is a function, or sums series up: `rate(…)`, `sum by (…)`.
fn is_function(next: &str) -> bool {
    ["(", "by ", "without "].iter().any(|it| next.starts_with(it))
}

fn rules() -> Vec<Value> {
    let file: Value = serde_yaml::from_str(&read("observability/alerts.yaml")).expect("it is YAML");
    let groups = file["groups"].as_array().expect("groups");
    let rules = groups.iter().flat_map(|group| group["rules"].as_array().expect("rules"));
    rules.cloned().collect()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}"))
}

#[test]
fn each_alert_asks_for_what_there_is() {
    let exposed = exposed();
    let mut names = BTreeSet::new();
    for rule in rules() {
        let name = text(&rule, "alert");
        assert!(names.insert(name.to_owned()), "{name} is there twice");
        let mut query = Query::of(text(&rule, "expr"), &exposed);
        for key in ["summary", "description"] {
            query.text(text(&rule["annotations"], key));
        }
        assert!(query.problems.is_empty(), "{name}: {:?}", query.problems);
        let severity = text(&rule["labels"], "severity");
        assert!(["critical", "warning", "info"].contains(&severity), "{name}: {severity}");
    }
    assert!(names.len() > 20, "{names:?}");
}

#[test]
fn the_dashboard_asks_for_what_there_is() {
    let exposed = exposed();
    let dashboard = read("observability/grafana-dashboard.json");
    let dashboard: Value = serde_json::from_str(&dashboard).expect("it is JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut asked = 0;
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        for target in panel["targets"].as_array().expect("a panel shows something") {
            // A variable of the dashboard, and not a label.
            let mut query = Query::of(text(target, "expr"), &exposed);
            query.text(text(target, "legendFormat"));
            assert!(query.problems.is_empty(), "{}: {:?}", panel["title"], query.problems);
            asked += 1;
        }
    }
    assert!(asked > 50, "{asked}");
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    let hosts = variables.iter().find(|it| it["name"] == "instance").expect("hosts");
    let metric = text(hosts, "definition").strip_prefix("label_values(").expect("a question");
    let metric = metric.split(',').next().expect("a metric");
    assert!(exposed.contains_key(metric), "{metric}");
}

/// The snippet's version is a number of this repository, and not of the metrics.
#[test]
fn an_old_snippet_is_one_that_is_older_than_ours() {
    let snippet = read("nginx/moderation-server.conf");
    let behind = snippet.split("X-Moderation-Snippet ").nth(1).expect("it says which it is");
    let version = behind.split(';').next().expect("a number");
    let rules = rules();
    let rule = rules.iter().find(|rule| rule["alert"] == "ModerationSnippetOld");
    let expr = text(rule.expect("there is one"), "expr");
    assert!(expr.contains(&format!("moderation_nginx_snippet_version < {version} ")), "{expr}");
}

#[test]
fn what_there_is_not_is_noticed() {
    let exposed = exposed();
    let problems = |text: &str| Query::of(text, &exposed).problems;
    assert_eq!(problems("moderation_queue > 1"), ["there is no metric moderation_queue"]);
    assert_eq!(
        problems("sum by (reason) (rate(moderation_events_total{decision=\"denied\"}[5m]))"),
        ["no decision of moderation_events_total is denied", "nothing here has a label reason"]
    );
    assert_eq!(
        problems("increase(moderation_bans_total{type=\"x\"}[$__rate_interval]) > 1 and up == 0"),
        ["moderation_bans_total has no label type"]
    );
    let mut query = Query::of("moderation_queue_length", &exposed);
    query.text("{{ $labels.kind }} {{ $value | humanize }} {{instance}}");
    assert_eq!(query.problems, ["nothing here has a label kind"]);
}
