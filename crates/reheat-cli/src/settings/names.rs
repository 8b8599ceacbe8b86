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

/// Names that settings had in earlier versions of TRL or have in other tools, and what they are called here.
const RENAMED: [(&str, &str); 36] = [
    ("max_seq_length", "max_length"),
    ("max_seq_len", "max_length"),
    ("model_max_length", "max_length"),
    ("cutoff_len", "max_length"),
    ("evaluation_strategy", "eval_strategy"),
    ("warmup_ratio", "warmup_steps"), // below 1, it is the share of all steps
    ("per_gpu_train_batch_size", "per_device_train_batch_size"),
    ("batch_size", "per_device_train_batch_size"),
    ("train_batch_size", "per_device_train_batch_size"),
    ("per_gpu_eval_batch_size", "per_device_eval_batch_size"),
    ("eval_batch_size", "per_device_eval_batch_size"),
    ("torch_dtype", "dtype"),
    ("model", "model_name_or_path"),
    ("model_id", "model_name_or_path"),
    ("base_model", "model_name_or_path"),
    ("dataset", "dataset_name"),
    ("dataset_path", "dataset_name"),
    ("train_file", "dataset_name"),
    ("data_files", "dataset_name"),
    ("dataset_config_name", "dataset_config"),
    ("subset", "dataset_config"),
    ("dataset_split", "dataset_train_split"),
    ("train_split", "dataset_train_split"),
    ("epochs", "num_train_epochs"),
    ("num_epochs", "num_train_epochs"),
    ("lr", "learning_rate"),
    ("lr_scheduler", "lr_scheduler_type"),
    ("optimizer", "optim"),
    ("optimizer_in_bwd", "optimizer_in_backward"),
    ("max_grad_norm_clip", "max_grad_norm"),
    ("grad_clip", "max_grad_norm"),
    ("train_on_completions_only", "completion_only_loss"),
    ("completion_only", "completion_only_loss"),
    ("activation_checkpointing", "gradient_checkpointing"),
    ("reward_functions", "reward_funcs"),
    ("group_size", "num_generations"),
];

/// Other names of a setting.
pub(crate) fn old_names(key: &str) -> impl Iterator<Item = &'static str> {
    RENAMED.iter().filter(move |(_, present)| *present == key).map(|(old, _)| *old)
}

/// The meaning of a key of another version or tool.
pub(crate) fn foreign(key: &str) -> Option<Foreign> {
    use Foreign::{Ignored, Refused, Renamed};
    if let Some((_, present)) = RENAMED.iter().find(|(old, _)| *old == key) {
        return Some(Renamed(present));
    }
    Some(match key {
        "report_to"
        | "run_name"
        | "disable_tqdm"
        | "log_level"
        | "log_level_replica"
        | "log_on_each_node"
        | "logging_dir"
        | "project"
        | "trackio_space_id"
        | "trackio_bucket_id"
        | "trackio_static_space_id" => Ignored("metrics are always written to the output folder"),
        "dataset_num_proc"
        | "dataloader_num_workers"
        | "dataloader_pin_memory"
        | "dataloader_persistent_workers"
        | "dataloader_prefetch_factor"
        | "dataloader_multiprocessing_context"
        | "dataloader_in_order"
        | "dataset_batch_size" => Ignored("rows are prepared on all cores before training"),
        "streaming" | "dataset_streaming" => Ignored("files are always streamed"),
        "remove_unused_columns" | "label_names" | "length_column_name" => {
            Ignored("columns that aren't used are left alone")
        }
        "ddp_find_unused_parameters"
        | "ddp_bucket_cap_mb"
        | "ddp_broadcast_buffers"
        | "ddp_static_graph"
        | "ddp_timeout"
        | "ddp_backend"
        | "local_rank"
        | "save_on_each_node"
        | "accelerator_config" => Ignored("there is one process"),
        "padding_free" | "pad_to_multiple_of" | "pad_token" => Ignored("batches are never padded"),
        "trust_remote_code" => Ignored("code from a model folder is never run"),
        "use_liger_kernel" | "use_liger" | "attn_implementation" | "use_kernels" | "torch_compile" => {
            Ignored("the fused kernels are on unless --kernels reference turns them off")
        }
        "torch_compile_backend" | "torch_compile_mode" | "liger_kernel_config" | "torch_empty_cache_steps" => {
            Ignored("there is no PyTorch underneath")
        }
        "average_tokens_across_devices"
        | "gradient_checkpointing_kwargs"
        | "activation_checkpointing_kwargs"
        | "use_cache"
        | "full_determinism"
        | "include_num_input_tokens_seen"
        | "skip_memory_metrics"
        | "prediction_loss_only"
        | "eval_do_concat_batches"
        | "eval_use_gather_object"
        | "eval_accumulation_steps"
        | "ignore_bias_buffers"
        | "restore_callback_states_from_checkpoint" => Ignored("it has one fixed meaning here"),
        "do_train" | "do_eval" | "do_predict" => Ignored("the command says what is done"),
        "logging_nan_inf_filter" => Refused("a loss that is not finite stops the run before the update"),
        "ignore_data_skip" => Refused("a resumed run sees the rows that are left, and no other"),
        "bf16" | "fp16" | "tf32" | "bf16_full_eval" | "fp16_full_eval" => Refused("set `dtype` instead"),
        "use_cpu" => Refused("set `device: cpu` instead"),
        "optim_target_modules" => {
            Refused("GaLore and its kin are not there; `parameter_groups` and `use_peft` choose parameters")
        }
        "auto_find_batch_size" => Refused("set `per_device_train_batch_size`; it never changes the gradient of a step"),
        "dataloader_drop_last" => Refused("the last, smaller batch of an epoch is trained too"),
        "include_for_metrics" | "batch_eval_metrics" => Refused("write a callback with the library instead"),
        "label_smoothing_factor" => Refused("it is of fine-tuning alone; `reheat dpo` has `label_smoothing`"),
        "truncation_mode" => Refused("answers are cut at their end; `overlong` drops such rows instead"),
        "precompute_ref_log_probs" | "precompute_ref_batch_size" => {
            Ignored("log-probabilities of the reference are computed before training")
        }
        "sync_ref_model" => Refused("the reference stays the model as it was"),
        "ref_model_mixup_alpha" | "ref_model_sync_steps" => Ignored("the reference stays the model as it was"),
        "activation_offloading" => Refused("activations are recomputed instead, with `gradient_checkpointing`"),
        "enable_jit_checkpoint" => Refused("SIGTERM saves a checkpoint anyway"),
        "push_to_hub" | "hub_model_id" | "hub_strategy" | "hub_private_repo" | "hub_always_push" | "hub_revision" => {
            Refused("`reheat push` publishes a finished model")
        }
        "hub_token" => Refused("set HF_TOKEN or use `reheat login`: a token in a settings file is copied with it"),
        "router_aux_loss_coef" => Refused("mixtures of experts are not there"),
        "model_init_kwargs" | "dataset_kwargs" => Refused("what they hold has settings of its own"),
        "debug" => Refused("-v says more"),
        "parallelism_config" => Refused("training runs in one process"),
        "model_revision" => Refused("a name on the Hub may end in @REVISION"),
        "vllm_mode"
        | "vllm_model_impl"
        | "vllm_enable_sleep_mode"
        | "vllm_server_base_url"
        | "vllm_server_host"
        | "vllm_server_port"
        | "vllm_server_timeout"
        | "vllm_group_port"
        | "vllm_gpu_memory_utilization"
        | "vllm_max_model_length"
        | "vllm_tensor_parallel_size"
        | "use_transformers_continuous_batching"
        | "transformers_continuous_batching_config"
        | "use_transformers_paged"
        | "cache_implementation"
        | "ds3_gather_for_generation" => Ignored("completions are drawn by the model in training itself"),
        "vllm_importance_sampling_correction"
        | "vllm_importance_sampling_mode"
        | "vllm_importance_sampling_clip_max"
        | "vllm_importance_sampling_clip_min"
        | "vllm_importance_sampling_cap" => Ignored("sampler and training agree, so there is nothing to correct"),
        "vllm_structured_outputs_regex" => Refused("completions are free; a `regex` reward judges their form"),
        "generation_kwargs" => Refused("what they hold has settings of its own"),
        "chat_template_kwargs" => Refused("a column of that name is given to the template"),
        "reward_model_name_or_path" => Refused("name a reward with `reward_funcs`"),
        "log_multimodal" => Ignored("there are no images"),
        "log_completions_hub_repo" => Refused("`reheat push` publishes the output folder"),
        "cast_lm_head_to_fp32" => Ignored("logits are float32"),
        "disable_dropout" => Refused("set `lora_dropout: 0`; there is no other dropout"),
        "use_vllm" | "deepspeed" | "fsdp" | "fsdp_config" => Refused("training runs in one process"),
        "lora_target_parameters" => Refused("dense layers are named with `lora_target_modules`"),
        "bnb_4bit_quant_storage" | "lora_task_type" => Ignored("it has one fixed meaning here"),
        _ => return None,
    })
}

/// What a page of `docs/reference` says under the heading that names the class `config`.
#[cfg(test)]
#[track_caller]
pub(crate) fn section<'a>(page: &'a str, config: &str) -> &'a str {
    let heading = format!("(`{config}`)\n");
    let (_, rest) = page.split_once(&heading).unwrap_or_else(|| panic!("no heading with {config}"));
    rest.split_once("\n## ").map_or(rest, |(section, _)| section)
}

/// Checks that what works of TRL's options for every trainer, as the page for fine-tuning has them, works in the tables
/// of other methods too.
#[cfg(test)]
#[track_caller]
pub(crate) fn assert_options_of_every_trainer(tables: &[&super::Table]) {
    let page = include_str!("../../../../docs/reference/trl-options.md");
    let rows = section(page, "TrainingArguments").lines().filter(|line| line.contains("| works |"));
    let keys: Vec<&str> = rows.filter_map(|line| line.split('`').nth(1)).collect();
    for table in tables {
        let missing: Vec<&str> = keys.iter().copied().filter(|key| table.field(key).is_none()).collect();
        // The other pages name it.
        assert_eq!(missing, ["label_smoothing_factor"]);
    }
}

/// Compares a page of `docs/reference` with what becomes of its options in one of the tables, and gives their number.
#[cfg(test)]
#[track_caller]
pub(crate) fn assert_page(page: &str, tables: &[&super::Table]) -> usize {
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let check = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [option, state, note] = cells[..] else { panic!("three columns expected: {cells:?}") };
        let key = option.trim_matches('`');
        let told = match foreign(key) {
            _ if tables.iter().any(|table| table.field(key).is_some()) => ("works", note.to_owned()),
            Some(Foreign::Renamed(name)) => ("other name", format!("`{name}`")),
            Some(Foreign::Ignored(reason)) => ("no effect", reason.to_owned()),
            Some(Foreign::Refused(reason)) => ("refused", reason.to_owned()),
            None => ("unknown", String::new()),
        };
        assert_eq!((state, note.to_owned()), told, "{key}");
    };
    rows.map(check).count()
}
