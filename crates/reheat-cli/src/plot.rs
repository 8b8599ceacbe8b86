//! Curves and bars.
