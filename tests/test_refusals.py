"""A command that can't do what it was asked says so, and exits with code 2."""

import shlex

import pytest

QUICK = '--config=configs/quickstart.py'
TRAIN = f'-- {QUICK} --workdir=/shared/run'
F0 = 'benchmark --model=nfnet_f0'
EXPORT = 'export --weights=none.npz'
REFUSED = [
  ('benchmark', '--model=nfnet_f0'),
  ('benchmark --input', 'set --config'),
  ('benchmark --model=nfnet_f9', 'nfnet_f'),
  (f'{F0} --mode=test', 'test'),
  (f'{F0} --batch_size=abc', '--batch_size=abc'),
  (f'{F0} --override=[', '--override=['),
  (f'{F0} --json=README.md', '--json=README.md, line 1'),
  (f'{F0} --json=nowhere/a.jsonl', 'no folder nowhere'),
  (f'{F0} --against=timm --ema', 'remove --ema'),
  (
    'benchmark --model=resnet_50 --mode=folded --image_size=32',
    'not normalizer-free',
  ),
  ('benchmark --model=resnet_50 --against=timm', 'no counterpart'),
  ('convert missing.npz out.npz', 'missing.npz'),
  ('convert missing.npz', 'give two files'),
  ('convert missing.npz out.pth', 'out.pth'),
  ('convert --to=torch a.npz b.npz', '--to=torch'),
  ('convert tests out.npz', "tests is not a run's folder"),
  ('convert --certify --timm=resnet50', "no timm network 'resnet50'"),
  ('export out', 'set --weights'),
  (EXPORT, 'give one file to write'),
  (f'{EXPORT} out', 'none.npz'),
  (f'{EXPORT} --batch=0 out', "or 'any'"),
  (f'{EXPORT} --batch=2.5 out', "or 'any'"),
  (f'{EXPORT} tests', 'tests is a folder; name the file'),
  (f'{EXPORT} nowhere/out', 'nowhere: no such folder'),
  *(
    (f'{command} {QUICK} --config.{key}={value}', f'error: config.{key}=')
    for command, key, value in (
      ('evaluate --weights=nowhere', 'data.eval_image_size', '0'),
      ('evaluate --weights=nowhere', 'loss', 'zzz'),
      ('evaluate --weights=nowhere', 'data.mean', ''),
      ('inspect batch', 'data.train_image_size', '0'),
      ('inspect batch', 'seed', '-1'),
      ('summary --optimizer', 'learning_rate', '-1'),
    )
  ),
  ('inspect signal', 'set --model=NAME or --config=FILE'),
  (f'inspect signal --model=nfnet_f0 {QUICK}', '=nfnet_f0 and --config: give'),
  (f'launch --on=tpu_pod {TRAIN}', 'needs --tpu=NAME and --zone=ZONE'),
  (f'launch --on=hosts {TRAIN}', 'needs --hosts='),
  (f'launch {TRAIN}', 'set --on='),
  ('launch --on=slurm -- --config=x', 'give the flags of scripts.train'),
  (f'launch --on=cloud {TRAIN}', 'tpu_pod|slurm|hosts'),
  ('launch --on=slurm -- --workdir=', 'give the flags of scripts.train'),
  (f'launch --on=hosts --hosts=a,,b {TRAIN}', "'' is not an address"),
  (f'launch --on=hosts --hosts=-oX=y {TRAIN}', "'-oX=y' is not an address"),
  (f'launch --on=hosts --hosts=a --port=-1 {TRAIN}', '--port=-1'),
  (
    f'launch --on=hosts --hosts=gpu0,gpu1 {TRAIN}',
    'is not installed on this machine',
  ),
  ('plan --table --images_per_core=nan', '--images_per_core=nan'),
  ('plan --table --compile=nfnet_f9@v3', '--compile=nfnet_f9@v3'),
  ('predict a.png', 'set --weights'),
  ('predict --weights=none.npz a.png', 'none.npz: no such file'),
  ('predict --weights=none.npz', 'at least one picture'),
  ('predict --weights=w.npz --image_size=0 a.png', 'image_size'),
  (
    'prepare_data --dataset=cifar10 --data_dir=gs://bucket/data',
    'error: --data_dir=gs://bucket/data: give a local folder\n',
  ),
  ('summary --model=nfnet_g0', "no model 'nfnet_g0': did you mean"),
  (f'summary --model=nfnet_f0 {QUICK}', 'error: --model=nfnet_f0 and --config'),
  ('train', 'set --config'),
  (f'train {QUICK}', 'set --workdir'),
  ('train --config=configs/nfnet_f9.py', 'nfnet_f9.py'),
]


@pytest.mark.parametrize('line, says', REFUSED)
def test_a_refusal_is_one_line_and_exit_code_2(
  line, says, run_script, monkeypatch
):
  monkeypatch.setenv('PATH', '/none')
  script, *arguments = shlex.split(line)
  code, out, err = run_script(f'scripts.{script}', *arguments)
  assert code == 2 and not out
  assert err.startswith('error: ') and err.count('\n') == 1 and says in err
