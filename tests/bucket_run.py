"""A run in a bucket, which tests start.

python bucket_run.py URL KILL_AT [ADDRESS COUNT INDEX]

It kills itself before it uploads file number KILL_AT, from 0, of its
checkpoints; -2 means never.
"""

import asyncio
import os
import signal
import sys

import fsspec


def main(url, kill_at, *place):
  import tiny

  from nfnets import distributed, train

  if place:
    distributed.initialize(None, place[0], int(place[1]), int(place[2]), 5)
  left = [int(kill_at)]

  def mortal(put):
    async def called(self, source, target, *args, **kwargs):
      if 'checkpoints' in target:
        left[0] -= 1
        if left[0] == -1:
          await asyncio.sleep(1)  # others come through
          os.kill(os.getpid(), signal.SIGKILL)
      return await put(self, source, target, *args, **kwargs)

    return called

  kind = type(fsspec.core.url_to_fs(url)[0])
  kind._put_file = mortal(kind._put_file)
  config = tiny.config(
    num_steps=12, log_every=1, eval_every=12, checkpoint_every=3, batch_size=24
  )
  train.train_and_evaluate(config, url)


if __name__ == '__main__':
  main(*sys.argv[1:])
