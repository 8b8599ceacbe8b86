//! Key-value cache, sampling, batched and streamed generation.
