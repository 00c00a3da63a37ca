//! The result of this story as one object, and what in it falls short of the claim.

use serde::Serialize;

/// Everything that was measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// How the program is attached: `native` or `generic`.
    pub xdp_mode: String,
    /// Guessed passwords that the app looked at.
    pub guesses_at_the_app: u64,
    /// Those that nginx answered in its place.
    pub guesses_refused: u64,
    /// The abuser's messages that nginx answered in the app's place, before the ban.
    pub messages_refused: u64,
    /// Whether the daemon says that the abuser is banned, and enforced.
    pub banned: bool,
    /// Whether the banned account got nginx's page, with the code to quote.
    pub page_shown: bool,
    /// Whether it got the same as JSON, where a program asked.
    pub json_shown: bool,
    /// The kernel's count of dropped packets between the ban and the lift.
    pub packets_dropped: u64,
    /// What the abuser was answered between the ban and the lift.
    pub abuser_answers_after_ban: u64,
    /// What the bystander did during the whole story.
    pub bystander_requests: u64,
    /// What of that did not come out as it should.
    pub bystander_failures: u64,
    /// Of `packets_dropped`, those while the daemon was dead.
    pub dropped_while_daemon_dead: u64,
    /// Of `abuser_answers_after_ban`, those while the daemon was dead.
    pub answers_while_daemon_dead: u64,
    /// Whether the app answered the abuser again after the ban was lifted.
    pub flows_after_lift: bool,
    /// All requests that nginx answered, by its access log.
    pub nginx_requests: usize,
    /// Lines in which the app complained of something.
    pub app_complaints: usize,
}

impl Report {
    /// What did not come out as claimed; empty if everything did.
    pub fn shortcomings(&self) -> Vec<String> {
        let claims = [
            (self.guesses_at_the_app > 0, "no guess reached the app".to_owned()),
            (self.guesses_refused > 0, "no guess was refused".to_owned()),
            (self.messages_refused > 0, "no message was refused".to_owned()),
            (self.banned, "the abuser was not banned, or the ban not enforced".to_owned()),
            (self.page_shown, "the banned account saw no page".to_owned()),
            (self.json_shown, "the banned account got no JSON".to_owned()),
            (
                self.abuser_answers_after_ban == 0,
                format!("the banned abuser got {} answers", self.abuser_answers_after_ban),
            ),
            (self.packets_dropped > 0, "no packet was dropped".to_owned()),
            (
                self.dropped_while_daemon_dead > 0,
                "no packet was dropped while the daemon was dead".to_owned(),
            ),
            (
                self.answers_while_daemon_dead == 0,
                format!("{} answers while the daemon was dead", self.answers_while_daemon_dead),
            ),
            (self.flows_after_lift, "the abuser got no answer after the lift".to_owned()),
            (self.bystander_requests > 0, "the bystander asked for nothing".to_owned()),
            (
                self.bystander_failures == 0,
                format!("{} of the bystander's requests failed", self.bystander_failures),
            ),
            (self.nginx_requests > 0, "nginx logged no request".to_owned()),
            (self.app_complaints == 0, "the app complained of something".to_owned()),
        ];
        claims.into_iter().filter(|(holds, _)| !holds).map(|(_, claim)| claim).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn success() -> Report {
        Report {
            xdp_mode: "native".to_owned(),
            guesses_at_the_app: 6,
            guesses_refused: 6,
            messages_refused: 20,
            banned: true,
            page_shown: true,
            json_shown: true,
            packets_dropped: 9,
            abuser_answers_after_ban: 0,
            bystander_requests: 100,
            bystander_failures: 0,
            dropped_while_daemon_dead: 3,
            answers_while_daemon_dead: 0,
            flows_after_lift: true,
            nginx_requests: 180,
            app_complaints: 0,
        }
    }

    #[test]
    fn each_figure_that_is_not_as_claimed_is_a_shortcoming() {
        assert_eq!(success().shortcomings(), [""; 0]);
        let spoil: [fn(&mut Report); 15] = [
            |it| it.guesses_at_the_app = 0,
            |it| it.guesses_refused = 0,
            |it| it.messages_refused = 0,
            |it| it.banned = false,
            |it| it.page_shown = false,
            |it| it.json_shown = false,
            |it| it.abuser_answers_after_ban = 1,
            |it| it.packets_dropped = 0,
            |it| it.dropped_while_daemon_dead = 0,
            |it| it.answers_while_daemon_dead = 1,
            |it| it.flows_after_lift = false,
            |it| it.bystander_requests = 0,
            |it| it.bystander_failures = 1,
            |it| it.nginx_requests = 0,
            |it| it.app_complaints = 1,
        ];
        for (number, spoil) in spoil.into_iter().enumerate() {
            let mut report = success();
            spoil(&mut report);
            assert_eq!(report.shortcomings().len(), 1, "{number}");
        }
    }
}
