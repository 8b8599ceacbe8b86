//! Names that settings have or had elsewhere.

/// What a key that isn't ours means.
pub(crate) enum Foreign {
    /// The key's present name.
    Renamed(&'static str),
    /// Has no effect here, and why that is right.
    Ignored(&'static str),
    /// Would change the result and isn't there, and what to do.
    Refused(&'static str),
}

/// The meaning of a key of another version or tool.
pub(crate) fn foreign(key: &str) -> Option<Foreign> {
    use Foreign::{Ignored, Refused, Renamed};
    Some(match key {
        "max_seq_length" | "max_seq_len" | "model_max_length" | "cutoff_len" => Renamed("max_length"),
        "evaluation_strategy" => Renamed("eval_strategy"),
        "warmup_ratio" => Renamed("warmup_steps"), // below 1, it is the share of all steps
        "per_gpu_train_batch_size" | "batch_size" | "train_batch_size" => Renamed("per_device_train_batch_size"),
        "per_gpu_eval_batch_size" | "eval_batch_size" => Renamed("per_device_eval_batch_size"),
        "torch_dtype" => Renamed("dtype"),
        "model" | "model_id" | "base_model" => Renamed("model_name_or_path"),
        "dataset" | "dataset_path" | "train_file" | "data_files" => Renamed("dataset_name"),
        "dataset_config_name" | "subset" => Renamed("dataset_config"),
        "dataset_split" | "train_split" => Renamed("dataset_train_split"),
        "epochs" | "num_epochs" => Renamed("num_train_epochs"),
        "lr" => Renamed("learning_rate"),
        "lr_scheduler" => Renamed("lr_scheduler_type"),
        "optimizer" => Renamed("optim"),
        "max_grad_norm_clip" | "grad_clip" => Renamed("max_grad_norm"),
        "train_on_completions_only" | "completion_only" => Renamed("completion_only_loss"),
        "report_to" | "run_name" | "disable_tqdm" | "log_level" | "logging_dir" | "project" => {
            Ignored("metrics are always written to the output folder")
        }
        "dataset_num_proc" | "dataloader_num_workers" | "dataloader_pin_memory" | "dataset_batch_size" => {
            Ignored("rows are prepared on all cores")
        }
        "streaming" | "dataset_streaming" => Ignored("files are always streamed"),
        "remove_unused_columns" => Ignored("columns that aren't used are left alone"),
        "ddp_find_unused_parameters" | "ddp_timeout" | "ddp_backend" | "local_rank" => Ignored("there is one process"),
        "padding_free" | "pad_to_multiple_of" | "pad_token" => Ignored("batches are never padded"),
        "trust_remote_code" => Ignored("code from a model folder is never run"),
        "use_liger_kernel" | "use_liger" | "attn_implementation" | "use_kernels" | "torch_compile" => {
            Ignored("the fused kernels are always on")
        }
        "average_tokens_across_devices" | "logging_nan_inf_filter" | "gradient_checkpointing_kwargs" => {
            Ignored("it has one fixed meaning here")
        }
        "bf16" | "fp16" | "tf32" => Refused("set `dtype` instead"),
        "use_vllm" | "deepspeed" | "fsdp" | "fsdp_config" => Refused("training runs in one process"),
        "bnb_4bit_quant_storage" | "lora_task_type" => Ignored("it has one fixed meaning here"),
        "lora_target_parameters" => Refused("dense layers are named with `lora_target_modules`"),
        _ => return None,
    })
}
