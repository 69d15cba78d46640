//! What an interrupted run has left beside the output: gone on with or in the way, known before any work and before
//! anything of it is touched.

use super::Job;
use crate::error::Result;
use crate::kept_layers::KeptLayers;
use crate::output_file;
use crate::tuning::Progress;

impl Job<'_> {
    /// Fails where a new start would lose what is there, or --resume could not go on with it.
    pub(super) fn check_unfinished(&self) -> Result<()> {
        let output = &self.args.output;
        let (layers, steps) = (KeptLayers::path(&output.mlx_path), Progress::path(&output.mlx_path));
        if !self.args.tuning.resume {
            if KeptLayers::wait(&layers, None)? && !output.overwrite {
                return Err(output_file::unfinished(&layers));
            }
            if steps.exists() && !output.overwrite {
                return Err(output_file::unfinished(&steps));
            }
            return Ok(());
        }
        let rounding = self.rounding_settings()?;
        let mut found = rounding.is_some() && KeptLayers::wait(&layers, rounding.as_ref())?;
        if let Some(wanted) = self.tuning.distill.filter(|_| steps.exists()) {
            Progress::check(&steps, &self.distill_settings(&self.slice()?, wanted)?)?;
            found = true;
        }
        if !found {
            let name = output.mlx_path.display();
            self.console.notes(&[format!("nothing to resume beside {name}: starting from the beginning")]);
        }
        Ok(())
    }
}
