//! The result of this story as one object, and what in it falls short of the claim.

use serde::Serialize;

use crate::demo::report::{Course, broken};

/// Everything that was measured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// As in every story.
    #[serde(flatten)]
    pub course: Course,
    /// Guessed passwords that the app looked at.
    pub guesses_at_the_app: u64,
    /// Those that nginx answered in its place.
    pub guesses_refused: u64,
    /// The abuser's messages that nginx answered in the app's place, before the ban.
    pub messages_refused: u64,
    /// Whether the banned account got nginx's page, with the code to quote.
    pub page_shown: bool,
    /// Whether it got the same as JSON, where a program asked.
    pub json_shown: bool,
    /// All requests that nginx answered, by its access log.
    pub nginx_requests: usize,
    /// Lines in which the app complained of something.
    pub app_complaints: usize,
}

impl Report {
    /// What did not come out as claimed; empty if everything did.
    pub fn shortcomings(&self) -> Vec<String> {
        let own = [
            (self.guesses_at_the_app > 0, "no guess reached the app".to_owned()),
            (self.guesses_refused > 0, "no guess was refused".to_owned()),
            (self.messages_refused > 0, "no message was refused".to_owned()),
            (self.page_shown, "the banned account saw no page".to_owned()),
            (self.json_shown, "the banned account got no JSON".to_owned()),
            (self.nginx_requests > 0, "nginx logged no request".to_owned()),
            (self.app_complaints == 0, "the app complained of something".to_owned()),
        ];
        broken(own.into_iter().chain(self.course.claims()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn success() -> Report {
        let course = Course {
            xdp_mode: "native".to_owned(),
            banned: true,
            packets_dropped: 9,
            abuser_answers_after_ban: 0,
            bystander_requests: 100,
            bystander_failures: 0,
            dropped_while_daemon_dead: 3,
            answers_while_daemon_dead: 0,
            flows_after_lift: true,
        };
        Report {
            course,
            guesses_at_the_app: 6,
            guesses_refused: 6,
            messages_refused: 20,
            page_shown: true,
            json_shown: true,
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
            |it| it.course.banned = false,
            |it| it.page_shown = false,
            |it| it.json_shown = false,
            |it| it.course.abuser_answers_after_ban = 1,
            |it| it.course.packets_dropped = 0,
            |it| it.course.dropped_while_daemon_dead = 0,
            |it| it.course.answers_while_daemon_dead = 1,
            |it| it.course.flows_after_lift = false,
            |it| it.course.bystander_requests = 0,
            |it| it.course.bystander_failures = 1,
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
