//! Where what a sandbox writes lies: in the scratch file system, which the library has been handed.

use std::{
    collections::BTreeSet,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};

use super::{
    build::Build,
    host::Identity,
    root::{OWN, UPPER_LAYERS, USR, upper_layer},
};
use crate::{
    backend::Layers,
    changes::{Folder, Layer, Lower},
    error::{Error, Result},
    sandbox::MountMode,
    spec::System,
};

/// Who looks at what was written, beside the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Nobody, once the report is made: the sandbox has ended by then.
    Ours,
    /// The sandbox.
    Shared,
}

/// What a sandbox has written, as long as this value is there.
#[derive(Debug)]
pub(super) struct Written {
    scratch: OwnedFd,
    overlays: Vec<Overlay>,
    /// Every mount, in the sandbox.
    targets: Vec<PathBuf>,
    system: System,
}

/// A mount of the mode `overlay`.
#[derive(Debug)]
struct Overlay {
    target: PathBuf,
    source: PathBuf,
    fd: OwnedFd,
    owner: Option<(u32, u32)>,
}

impl Written {
    pub(super) fn new(build: &Build<'_>, scratch: OwnedFd) -> Result<Self> {
        let overlays = build.sources.iter().filter(|source| source.mode == MountMode::Overlay);
        let overlays = overlays.map(|source| {
            Ok(Overlay {
                target: source.target.clone(),
                source: source.path.clone(),
                fd: source.fd.try_clone()?,
                owner: (build.identity == Identity::Root).then_some(source.owner),
            })
        });
        Ok(Self {
            scratch,
            overlays: overlays.collect::<io::Result<_>>().map_err(cannot)?,
            targets: build.sources.iter().map(|source| source.target.clone()).collect(),
            system: build.sandbox.system,
        })
    }

    /// Opens what was written, and what is below it.
    pub(super) fn layers(&self, access: Access) -> Result<Layers> {
        let scratch = Folder::new(self.scratch.try_clone().map_err(cannot)?);
        let scratch = match access {
            Access::Ours => scratch.abandoned(),
            Access::Shared => scratch,
        };
        // Made last of all, by the clock of all files: a change of the host that is later is not seen for
        // sure, and one that is not was there.
        let made = scratch.stat(Path::new(UPPER_LAYERS)).map_err(cannot)?;
        let since = made.map_or((0, 0), |made| made.print.mtime);
        let own =
            OWN.iter().map(|(path, name, _)| (Path::new("/").join(path), PathBuf::from(name)));
        let mut layers = Vec::new();
        for overlay in &self.overlays {
            let lower = Lower {
                folder: Folder::new(overlay.fd.try_clone().map_err(cannot)?),
                path: overlay.source.clone(),
                owner: overlay.owner,
                is_mount: true,
            };
            layers.push(self.layer(
                &scratch,
                &overlay.target,
                &upper_layer(&overlay.target),
                Some(lower),
            )?);
        }
        for (target, name) in own {
            layers.push(self.layer(&scratch, &target, &name, None)?);
        }
        if self.system == System::Overlay {
            let target = Path::new("/usr");
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let root = rustix::fs::open(target, flags, Mode::empty());
            let folder = Folder::new(root.map_err(|error| cannot(error.into()))?);
            let lower = Lower { folder, path: target.into(), owner: None, is_mount: false };
            let mut layer = self.layer(&scratch, target, &upper_layer(target), Some(lower))?;
            layer.skeleton.extend(USR.map(PathBuf::from));
            layers.push(layer);
        }
        Ok(Layers::new(since, layers))
    }

    fn layer(
        &self,
        scratch: &Folder,
        target: &Path,
        upper: &Path,
        lower: Option<Lower>,
    ) -> Result<Layer> {
        // The mount points of what is mounted below.
        let mut skeleton = BTreeSet::new();
        for rest in self.targets.iter().filter_map(|other| other.strip_prefix(target).ok()) {
            skeleton.extend(rest.ancestors().map(Path::to_owned));
        }
        let upper = scratch.below(upper).map_err(cannot)?;
        Ok(Layer { target: target.into(), upper, lower, skeleton })
    }
}

fn cannot(error: io::Error) -> Error {
    Error::system("cannot open what the sandbox writes", error)
}
