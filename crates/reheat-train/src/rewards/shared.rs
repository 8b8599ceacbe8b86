//! Rewards that judge in two places.

use std::sync::{Arc, Mutex, PoisonError};

use super::{Reward, RewardError, RewardInput};

/// The same rewards twice: for training and for an evaluation, which ask by turns.
pub fn share_rewards(rewards: Vec<Box<dyn Reward>>) -> [Vec<Box<dyn Reward>>; 2] {
    let shared: Vec<Shared> = rewards.into_iter().map(Shared::new).collect();
    let boxed = |shared: &Shared| -> Box<dyn Reward> { Box::new(shared.clone()) };
    [shared.iter().map(boxed).collect(), shared.iter().map(boxed).collect()]
}

/// A reward that others hold too.
#[derive(Clone)]
struct Shared {
    name: String,
    columns: Vec<String>,
    reward: Arc<Mutex<Box<dyn Reward>>>,
}

impl Shared {
    fn new(reward: Box<dyn Reward>) -> Self {
        Self {
            name: reward.name().to_owned(),
            columns: reward.columns().into_iter().map(str::to_owned).collect(),
            reward: Arc::new(Mutex::new(reward)),
        }
    }
}

impl Reward for Shared {
    fn name(&self) -> &str {
        &self.name
    }

    fn columns(&self) -> Vec<&str> {
        self.columns.iter().map(String::as_str).collect()
    }

    fn score(&mut self, completions: &[RewardInput<'_>]) -> Result<Vec<Option<f64>>, RewardError> {
        self.reward.lock().unwrap_or_else(PoisonError::into_inner).score(completions)
    }
}
