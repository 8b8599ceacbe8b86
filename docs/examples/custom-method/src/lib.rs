//! A dataset format, a loss and a callback of a user's own, on Reheat's published crates. The README goes through it
//! step by step.

mod format; // lines of a weight and text
mod method; // the loss
mod callback; // stops when the loss is low enough

pub use self::{
    callback::StopAt,
    format::{BadLine, WeightedRow, read},
    method::{WeightedBatch, WeightedSft},
};

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use reheat_data::Sequence;
    use reheat_model::{Qwen2, Qwen2Config};
    use reheat_train::{NoCallback, Sft, SftConfig, Trainer, TrainingConfig};

    use super::*;

    fn model() -> Qwen2 {
        Qwen2::random(&Qwen2Config::tiny(64), 7, &Device::flex())
    }

    fn config() -> TrainingConfig {
        let mut config = TrainingConfig::default();
        config.learning_rate = 1e-2;
        config.max_steps = 3;
        config.per_device_train_batch_size = 2;
        config.logging_steps = 1;
        config
    }

    fn rows(weights: [f64; 3]) -> Vec<WeightedRow> {
        let texts = [vec![5, 6, 7, 8], vec![9, 10, 11], vec![3, 4, 5, 6, 7]];
        let row = |(ids, weight)| WeightedRow { sequence: Sequence::new(ids), weight };
        texts.into_iter().zip(weights).map(row).collect()
    }

    /// With equal weights the loss is that of plain fine-tuning, whatever the weight.
    #[test]
    fn equal_weights_change_nothing() {
        let sequences = rows([1.0; 3]).into_iter().map(|row| row.sequence).collect();
        let mut plain = Trainer::new(model(), Sft::new(sequences, SftConfig::default()), config()).unwrap();
        plain.train(&mut NoCallback).unwrap();
        let mut weighted = Trainer::new(model(), WeightedSft::new(rows([2.5; 3])), config()).unwrap();
        weighted.train(&mut NoCallback).unwrap();
        for (a, b) in plain.log_history().iter().zip(weighted.log_history()) {
            assert!((a.loss - b.loss).abs() < 1e-5 && (a.grad_norm - b.grad_norm).abs() < 1e-4);
        }
    }

    #[test]
    fn a_callback_stops_the_run() {
        let mut config = config();
        config.max_steps = 1000;
        let mut trainer = Trainer::new(model(), WeightedSft::new(rows([1.0, 0.5, 2.0])), config).unwrap();
        let summary = trainer.train(&mut StopAt(1.0)).unwrap();
        assert!(summary.interrupted && summary.global_step < 1000);
        assert!(trainer.log_history().last().unwrap().metric("mean_weight").unwrap() > 0.5);
    }

    #[test]
    fn bad_lines_are_named() {
        let encode = |text: &str| text.bytes().map(u32::from).collect::<Vec<_>>();
        assert_eq!(read("1\tab\n0.5\tc", encode).unwrap().len(), 2);
        let told = |text| read(text, encode).unwrap_err().to_string();
        assert_eq!(told("1\tab\nno tab"), "line 2: expected a weight, a tab and text");
        assert_eq!(told("-1\tab"), "line 1: the weight is not above 0");
    }
}
