//! Where what a sandbox writes lies: in the scratch file system, which the library has been handed.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags};

use super::{
    build::Build,
    etc,
    host::Identity,
    root::{OWN, UPPER_LAYERS, USR, upper_layer},
    rootfs::{self, Rootfs},
};
use crate::{
    backend::Layers,
    changes::{Folder, Given, Layer, Lower},
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
    system: Writable,
}

/// A mount of the mode `overlay`.
#[derive(Debug)]
struct Overlay {
    target: PathBuf,
    source: PathBuf,
    fd: OwnedFd,
    owner: Option<(u32, u32)>,
}

/// What can be written to of the system's directories.
#[derive(Debug)]
enum Writable {
    Nothing,
    /// The host's `/usr`.
    Usr,
    /// All of an image.
    Image(Image),
}

#[derive(Debug)]
struct Image {
    rootfs: Rootfs,
    owner: Option<(u32, u32)>,
    /// What of its `/etc` is the sandbox's own.
    etc: BTreeMap<PathBuf, Given>,
}

impl Written {
    /// Takes the image out of what the sandbox was built from.
    pub(super) fn new(build: &mut Build<'_>, scratch: OwnedFd) -> Result<Self> {
        let is_root = build.identity == Identity::Root;
        let overlays = build.sources.iter().filter(|source| source.mode == MountMode::Overlay);
        let overlays = overlays.map(|source| {
            Ok(Overlay {
                target: source.target.clone(),
                source: source.path.clone(),
                fd: source.fd.try_clone()?,
                owner: is_root.then_some(source.owner),
            })
        });
        let overlays = overlays.collect::<io::Result<_>>().map_err(cannot)?;
        let etc = etc::files(build.identity.inside(), build.name_server());
        let system = match (build.rootfs.take(), build.sandbox.system) {
            (Some(rootfs), _) => Writable::Image(Image {
                owner: is_root.then_some(rootfs.source.owner),
                etc: rootfs.etc(&etc).into_iter().map(|(name, it)| (name.into(), it)).collect(),
                rootfs,
            }),
            (None, System::Overlay) => Writable::Usr,
            (None, System::Ro) => Writable::Nothing,
        };
        let targets = build.sources.iter().map(|source| source.target.clone()).collect();
        Ok(Self { scratch, overlays, targets, system })
    }

    /// Opens what was written, and what is below it.
    pub(super) fn layers(&self, access: Access) -> Result<Layers> {
        let scratch = Folder::new(self.scratch.try_clone().map_err(cannot)?);
        let scratch = match access {
            Access::Ours => scratch.abandoned(),
            Access::Shared => scratch,
        };
        self.open(&scratch).map_err(cannot)
    }

    fn open(&self, scratch: &Folder) -> io::Result<Layers> {
        // Made last of all, by the clock of all files: a change of the host that is later is not seen for
        // sure, and one that is not was there.
        let made = scratch.stat(Path::new(UPPER_LAYERS))?;
        let since = made.map_or((0, 0), |made| made.print.mtime);
        let mut layers = Vec::new();
        for overlay in &self.overlays {
            let lower = Lower {
                folder: Folder::new(overlay.fd.try_clone()?),
                path: overlay.source.clone(),
                owner: overlay.owner,
                is_mount: true,
            };
            let upper = upper_layer(&overlay.target);
            layers.push(self.layer(scratch, &overlay.target, &upper, Some(lower))?);
        }
        for (path, name, _) in OWN {
            let target = Path::new("/").join(path);
            layers.push(self.layer(scratch, &target, Path::new(name), None)?);
        }
        match &self.system {
            Writable::Nothing => {}
            Writable::Usr => layers.push(self.usr(scratch)?),
            Writable::Image(image) => {
                let tops: BTreeSet<&Path> = image.rootfs.directories().collect();
                for top in tops {
                    layers.push(self.top(scratch, image, top)?);
                }
            }
        }
        Ok(Layers::new(since, layers))
    }

    /// The layer over the host's `/usr`.
    fn usr(&self, scratch: &Folder) -> io::Result<Layer> {
        let target = Path::new("/usr");
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = Folder::new(rustix::fs::open(target, flags, Mode::empty())?);
        let lower = Lower { folder, path: target.into(), owner: None, is_mount: false };
        let mut layer = self.layer(scratch, target, &upper_layer(target), Some(lower))?;
        layer.skeleton.extend(USR.map(PathBuf::from));
        Ok(layer)
    }

    /// The layer over a top directory of an image.
    fn top(&self, scratch: &Folder, image: &Image, top: &Path) -> io::Result<Layer> {
        let lower = Lower {
            folder: Folder::new(image.rootfs.open_top(top)?),
            path: image.rootfs.source.path.join(top.strip_prefix("/").unwrap_or(top)),
            owner: image.owner,
            is_mount: false,
        };
        let mut layer = self.layer(scratch, top, &rootfs::upper_layer(top), Some(lower))?;
        let own = OWN.map(|(path, ..)| Path::new("/").join(path));
        layer.skeleton.extend(points(&own, top));
        if top == Path::new("/etc") {
            layer.given.clone_from(&image.etc);
        }
        Ok(layer)
    }

    fn layer(
        &self,
        scratch: &Folder,
        target: &Path,
        upper: &Path,
        lower: Option<Lower>,
    ) -> io::Result<Layer> {
        let upper = scratch.below(upper)?;
        let skeleton = points(&self.targets, target);
        Ok(Layer { target: target.into(), upper, lower, skeleton, given: BTreeMap::new() })
    }
}

/// The mount points below a directory, and the directories above them, by their paths there.
fn points(targets: &[PathBuf], directory: &Path) -> BTreeSet<PathBuf> {
    let below = targets.iter().filter_map(|target| target.strip_prefix(directory).ok());
    below.flat_map(Path::ancestors).map(Path::to_owned).collect()
}

fn cannot(error: io::Error) -> Error {
    Error::system("cannot open what the sandbox writes", error)
}
