//! What is owed to the shared counters while they cannot be reached: acts in their order, as
//! many as there may be. When there are more, the oldest go, whose windows end first.

use std::collections::VecDeque;

use super::act::Act;

/// See the module.
#[derive(Debug)]
pub struct Arrears {
    acts: VecDeque<Act>,
    most: usize,
    /// How many had to go.
    pub dropped: u64,
}

impl Arrears {
    /// Room for so many.
    pub const fn new(most: usize) -> Self {
        Self { acts: VecDeque::new(), most, dropped: 0 }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.acts.len()
    }

    /// Whether nothing is owed.
    pub fn is_empty(&self) -> bool {
        self.acts.is_empty()
    }

    /// Owes these, after all others.
    pub fn owe(&mut self, acts: impl IntoIterator<Item = Act>) {
        for act in acts {
            if self.acts.len() >= self.most {
                self.acts.pop_front();
                self.dropped += 1;
            }
            self.acts.push_back(act);
        }
    }

    /// The next ones, up to so many, that are worth anything at a moment of the server's
    /// clock.
    pub fn take(&mut self, most: usize, now_ms: u64) -> Vec<Act> {
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(act) = self.acts.pop_front()
        {
            if !act.is_over(now_ms) {
                taken.push(act);
            }
        }
        taken
    }

    /// Puts back, before all others, what was not taken over; as far as there is room.
    pub fn put_back(&mut self, acts: Vec<Act>) {
        for act in acts.into_iter().rev() {
            if self.acts.len() >= self.most {
                self.dropped += 1;
            } else {
                self.acts.push_front(act);
            }
        }
    }
}
