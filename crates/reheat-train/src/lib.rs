//! Post-training of language models: the loop, and a folder per method.
//!
//! A [`Method`] says what a row is and what is minimised; [`Trainer`] is the loop that all methods share, one file:
//! it draws rows, runs the model block by block ([`ModelPass`]) and hands the gradients to the optimizer. Sequences are
//! never padded, and nothing of shape `[tokens, vocabulary]` is ever kept.
//!
//! ```
//! use burn::tensor::Device;
//! use reheat_data::Sequence;
//! use reheat_model::{Qwen2, Qwen2Config};
//! use reheat_train::{NoCallback, Sft, SftConfig, Trainer, TrainingConfig};
//!
//! # fn main() -> Result<(), reheat_train::TrainError> {
//! let model = Qwen2::random(&Qwen2Config::tiny(64), 7, &Device::flex());
//! let rows = vec![Sequence::new(vec![5, 6, 7, 8]), Sequence::new(vec![9, 10, 11])];
//! let mut config = TrainingConfig::default();
//! config.learning_rate = 1e-2;
//! config.num_train_epochs = 20.0;
//! let mut trainer = Trainer::new(model, Sft::new(rows, SftConfig::default()), config)?;
//! let summary = trainer.train(&mut NoCallback)?;
//! assert!(summary.train_loss < 4.0); // from about ln 64 = 4.2
//! # Ok(())
//! # }
//! ```

mod method; // what a training method is
mod trainer; // the loop
mod config; // its settings
mod sft; // supervised fine-tuning
mod dpo; // direct preference optimisation and its kin
mod kto; // Kahneman-Tversky optimisation
mod reward_model; // models that learn what an answer is worth
mod program; // programs that answer lines of JSON
mod rewards; // what a completion is worth
mod tools; // what a model may call
mod rollout; // completions of the policy: drawn, judged, kept
mod grpo; // group relative policy optimisation and its kin
mod rloo; // REINFORCE leave-one-out
mod answers; // prompts with answers, laid end to end
mod pass; // the model, block by block: forward, backward
mod noise; // on the embeddings
mod gradients; // gradients by parameter name
mod optimizer; // updates of named parameters
mod schedule; // learning rate by step
mod metrics; // what a logged row holds
mod progress; // where a run is
mod logger; // where logged rows go
mod tensorboard; // event files
mod health; // advice from the numbers of a run
mod model_card; // README.md beside a model
mod callback; // who is told what while training runs
mod run_dir; // the output directory
mod plan; // what a run will take of memory
mod checkpoint; // what a run needs to go on
mod changes; // settings of a run and of the one it continues
mod trainer_state; // what transformers' tools read
mod integrity; // sizes and hashes
mod disk; // file operations that last
mod exact; // JSON that keeps every bit
mod error;

pub use self::{
    callback::{Callback, Control, NoCallback, TrainStart},
    changes::Change,
    checkpoint::Checkpoint,
    config::{IntervalStrategy, SaveStrategy, TrainingConfig, TrainingDtype},
    dpo::{
        Dpo, DpoBatch, DpoConfig, DpoLossType, DpoNotice, DpoWatch, FDivergence, FDivergenceType, PairLogprobs,
        PairLossSettings, Reference, ReferenceLogprobs, pair_losses, precompute_reference,
    },
    error::TrainError,
    gradients::Gradients,
    grpo::{
        Grpo, GrpoConfig, GrpoLoss, GrpoLossType, GrpoObjective, GrpoTokens, ImportanceSamplingLevel,
        MultiObjectiveAggregation, Normalizer, Ratios, ScaleRewards, group_advantages, grpo_loss,
    },
    health::{Advice, Health, RowShares},
    integrity::hash_of,
    kto::{Kto, KtoBatch, KtoConfig, KtoLossType, UnpairedLossSettings, unpaired_losses},
    logger::{JsonLines, Logger},
    method::{
        BatchGradient, EntropyGradient, Measures, Method, MethodState, Objective, ScoreGradient, StepContext,
        TokenGradient,
    },
    metrics::{EvalRow, LogEntry, LogRow, TrainSummary},
    model_card::ModelCard,
    noise::EmbeddingNoise,
    optimizer::{Optimizer, OptimizerConfig, OptimizerNames, ParameterGroup, SgdArgs},
    pass::{Checkpointing, ModelPass},
    plan::{MemoryOf, MemoryPlan, PlannedRun, Trained},
    program::{ProgramFault, Talk},
    reward_model::{RewardBatch, RewardConfig, RewardTraining, ranking_losses},
    rewards::{
        LoadModel, ModelReward, ProgramReward, Reward, RewardContext, RewardError, RewardFn, RewardInput, RewardSpec,
        build_rewards, check_reward_columns, score_completions, share_rewards,
    },
    rloo::{Rloo, RlooConfig, RlooLoss, leave_one_out_advantages, rloo_loss},
    rollout::{
        Advantages, Completion, CompletionRecord, CompletionsFn, Judged, RolloutBatch, RolloutConfig, RolloutFn,
        RolloutObjective, RolloutPlan, RolloutSetup, RolloutTraining, ToolUse,
    },
    run_dir::RunDir,
    schedule::{LrSchedule, LrSchedulerKwargs, LrSchedulerType, Ramp},
    sft::{LossType, Sft, SftConfig},
    tensorboard::TensorBoard,
    tools::{Tool, ToolError, ToolFn, Tools, program_tools},
    trainer::{Trainer, evaluate},
    trainer_state::TrainerState,
};
