"""Start open_clip's trainer with a model configuration of our own: CONFIG.json, then the trainer's flags.

Runs in the peer's environment, so it imports nothing of `vlp`.
"""

import sys

import open_clip
from open_clip_train.main import main

if __name__ == "__main__":
    open_clip.add_model_config(sys.argv[1])
    main(sys.argv[2:])
