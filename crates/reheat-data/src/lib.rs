//! Files of conversations to tokenised, packed batches in host memory.
