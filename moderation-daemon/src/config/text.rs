//! Our own configuration as it lies on the disk: a file, and beside it a folder of
//! the same name (`moderation.d`) whose files are laid over it in the order of their
//! names. So a package, a tool and an operator each have a file that the others
//! leave alone.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{ConfigError, DEFAULT_PATH};

/// What one file says.
#[derive(Clone, Debug)]
pub(super) struct Text {
    pub(super) yaml: String,
    /// Where it is; `None`: nowhere, it was given as it is.
    pub(super) path: Option<PathBuf>,
}

/// More files than that in the folder are none of ours.
const MAX_FILES: usize = 256;

impl Text {
    /// A text that is in no file.
    pub(super) fn given(yaml: &str) -> Self {
        Self { yaml: yaml.to_owned(), path: None }
    }

    /// The files that count, weakest first: the named one, or the usual one if it
    /// is there; and those of the folder beside it, if that is there.
    pub(super) fn of(path: Option<&Path>) -> Result<Vec<Self>, ConfigError> {
        let main = path.unwrap_or(Path::new(DEFAULT_PATH));
        let mut texts = Vec::new();
        match Self::read(main) {
            Err(ConfigError::Read { source, .. })
                if source.kind() == io::ErrorKind::NotFound && path.is_none() => {}
            text => texts.push(text?),
        }
        for file in files(&main.with_extension("d"))? {
            texts.push(Self::read(&file)?);
        }
        Ok(texts)
    }

    fn read(path: &Path) -> Result<Self, ConfigError> {
        let yaml = fs::read_to_string(path).map_err(failed(path))?;
        Ok(Self { yaml, path: Some(path.to_owned()) })
    }

    /// The same error, with this text's file.
    pub(super) fn blame(&self, error: ConfigError) -> ConfigError {
        match &self.path {
            Some(path) => error.in_file(path),
            None => error,
        }
    }
}

/// What ends in `.yaml`: nothing that an editor or a package manager leaves behind.
fn files(folder: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed(folder))?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed(folder))?.path();
        let is_hidden = path.file_name().is_some_and(|it| it.as_encoded_bytes().starts_with(b"."));
        if path.extension().is_some_and(|it| it == "yaml") && !is_hidden {
            files.push(path);
        }
        if files.len() > MAX_FILES {
            let problem = format!("more than {MAX_FILES} files");
            return Err(ConfigError::value(folder.display().to_string(), problem));
        }
    }
    files.sort();
    Ok(files)
}

fn failed(path: &Path) -> impl Fn(io::Error) -> ConfigError + use<'_> {
    |source| ConfigError::Read { path: path.to_owned(), source }
}
