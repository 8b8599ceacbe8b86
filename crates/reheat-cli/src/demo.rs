//! The bundled model and dataset.
