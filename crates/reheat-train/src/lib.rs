//! Post-training methods: losses, optimizer, schedule, loop, checkpoints, metrics.
