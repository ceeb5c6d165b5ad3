"""Makes a virtual environment with tensorflow-model-optimization.

It needs Keras 2 and an old absl-py, which are best kept out of the main
environment. TensorFlow is installed as `tensorflow-cpu`, which is smaller, so
`tf_keras`, which depends on `tensorflow`, is installed without dependencies.
"""

import pathlib
import subprocess
import sys
import venv

from absl import app
from absl import flags

FLAGS = flags.FLAGS
flags.DEFINE_string("folder", "output/tfmot_environment", "Where to make it.")

# tensorflow-model-optimization imports `dm-tree` to `scipy`.
PACKAGES = (
    "tensorflow-cpu==2.21.*",
    "absl-py<2",
    "dm-tree",
    "mock",
    "numpy",
    "scipy",
    "setuptools",
    "six",
)
WITHOUT_DEPENDENCIES = (
    "tf_keras==2.21.*",
    "tensorflow-model-optimization==0.8.1",
)


def make(folder):
    """Creates or completes the environment.

    Returns:
        The path of its Python.
    """
    venv.create(folder, with_pip=True)
    scripts = "Scripts" if sys.platform == "win32" else "bin"
    python = pathlib.Path(folder).absolute() / scripts / "python"
    install = [str(python), "-m", "pip", "install", "--quiet"]
    subprocess.run([*install, *PACKAGES], check=True)
    subprocess.run([*install, "--no-deps", *WITHOUT_DEPENDENCIES], check=True)
    check = "import tensorflow_model_optimization as m; print(m.__version__)"
    subprocess.run([str(python), "-c", check], check=True)
    return python


def main(_):
    print(f"--tfmot_python={make(FLAGS.folder)}")


if __name__ == "__main__":
    app.run(main)
