//! Decisions that were made when a model was read, as sentences for the user.

use super::incoming::Forms;

/// Decisions by their subject, in the order of reading.
#[derive(Debug, Clone)]
pub(super) struct Notes {
    /// On config.json, weight files and tensors.
    pub(super) model: Vec<String>,
    /// On weight files and tensors, without config.json.
    pub(super) files: Vec<String>,
    /// Layers that came in another tool's form.
    pub(super) forms: Forms,
    /// On the layers' settings.
    pub(super) bitmap: Vec<String>,
    /// On what lies beside the decoder.
    pub(super) towers: Vec<String>,
}

/// Sentences for the user.
pub(super) struct Sentences {
    /// On the whole model.
    pub(super) all: Vec<String>,
    /// On its weight files, tensors and settings.
    pub(super) of_files: Vec<String>,
}

impl Notes {
    /// Returns the sentences where layers are taken without loss if MLX has a setting for them.
    pub(super) fn where_taken(&self) -> Sentences {
        self.with_forms(&self.forms.where_taken())
    }

    /// Returns the sentences where every layer is decoded.
    pub(super) fn where_decoded(&self) -> Sentences {
        self.with_forms(&self.forms.where_decoded())
    }

    fn with_forms(&self, forms: &[String]) -> Sentences {
        let Self { model, files, bitmap, towers, .. } = self;
        Sentences { all: [model, forms, bitmap, towers].concat(), of_files: [files, forms, bitmap].concat() }
    }
}
