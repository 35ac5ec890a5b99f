"""A corpus of mistakes, over every command and field of the command line.

Each ends with status 2 and one line on stderr that names what is wrong; nothing is on stdout,
nothing is written, and what was there is as it was.
"""

import dataclasses
import hashlib
import json
import os
import pickle
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from PIL import Image

from onceforall import cli, families
from onceforall.data import Source
from onceforall.predictors.published import Additive
from onceforall.records import write_csv
from onceforall.space import Table
from onceforall.supernet import save_network
from onceforall.training import PhaseSettings, Settings

FAMILY = "mbv3_mini"
SPACE = families.get(FAMILY).space
RECIPE = """
family: mbv3_mini
resolutions: [12, 16]
data: {name: digits}
batch_size: 16
phases:
  - {name: all, steps: 2, lr: 0.1, archs: 2, kernel: 2, depth: 3, expand: 3, rule: random}
"""
OUT = "onceforall: "

# A command, and what its one line must say. G/ is the folder of `given`.
CORPUS = """
info                                                | Missing argument 'NET'
info nothing                                        | 'nothing' is no file, no published network
info ''                                             | is a folder
info G/empty                                        | empty: is empty
info G/folder                                       | folder: is a folder
info G/none.json                                    | 'G/none.json' is no file
info G/binary                                       | binary: not text
info G/text.txt                                     | text.txt: 'hello' is not a map
info G/list.json                                    | list.json: [1, 2] is not a map
info G/bad.yaml                                     | bad.yaml: not YAML
info G/half.safetensors                             | half.safetensors:
info G/latency.npz                                  | latency.npz:
info G/other.json                                   | other.json: family: 'nowhere' is not known
info G/short.json                                   | short.json: neither an arch, a net.config
info mbv4:largest                                   | family: 'mbv4' is not known
info mbv3_mini:middle                               | after the family comes largest
info mbv3_mini:random                               | after the family comes largest
info mbv3_mini:random:-1                            | after the family comes largest
info mbv3_mini:random:x                             | after the family comes largest
info mbv3_mini:largest:1                            | after the family comes largest
info mbv3_mini@28/16:3x9/24:3x2/40:3x2              | stage 1 block 1: expand 9 is not in
info mbv3_mini@28/16:4x2/24:3x2/40:3x2              | kernel 4 is not an odd number
info mbv3_mini@28/16:3xnan/24:3x2/40:3x2            | expand nan
info mbv3_mini@-28/16:3x2/24:3x2/40:3x2             | resolution: -28
info mbv3_mini@28/16:3x2/24:3x2                     | stage 3: width is missing
info mbv3_mini@28/16:3x2,3x2,3x2,3x2/24:3x2/40:3x2  | stage 1: depth 4
info mbv3_mini@28                                   | 'mbv3_mini@28' is no file, no published
info mbv3_mini@28/16:3                              | is not an arch
info mbv3_mini@7/16:3x2/24:3x2/40:3x2               | resolution: 7 px is too small for mbv3_mini
info ofa_mbv3_w1.0:largest --resolution 0           | --resolution
info ofa_mbv3_w1.0:largest --resolution -5          | --resolution
info ofa_mbv3_w1.0:largest --resolution 1           | resolution: 1 px is too small
info ofa_mbv3_w1.0:largest --resolution 31          | at least 32 px
info ofa_mbv3_w1.0:largest --resolution 1000000     | resolution: 1000000 px is too large
info ofa_mbv3_w1.0:largest --resolution 1e3         | Invalid value for '--resolution'
info ofa_mbv3_w1.0:largest --resolution 224px       | Invalid value for '--resolution'
info ofa_mbv3_w1.0:largest --macs theirs            | --macs: 'theirs' is not
info mbv3_mini:largest mbv3_mini:smallest           | unexpected extra argument
info mbv3_mini:largest --weight x                   | No such option
info ofa_mbv3_d234_e346_k357_w1.0                   | is a supernet; name a network of it
info größte:größte                                  | family: 'größte' is not known
measure mbv3_mini:smallest --device tpu             | device: 'tpu' is not known
measure mbv3_mini:smallest --device ''              | device: '' is not known
measure mbv3_mini:smallest --threads 0              | --threads
measure mbv3_mini:smallest --threads -1             | --threads
measure mbv3_mini:smallest --threads 10000          | threads
measure mbv3_mini:smallest --threads two            | Invalid value for '--threads'
measure mbv3_mini:smallest --batch 0                | --batch
measure mbv3_mini:smallest --batch 100000000        | batch
measure mbv3_mini:smallest --rounds 0               | --rounds
measure mbv3_mini:smallest --visits 0               | --visits
measure mbv3_mini:smallest --weights nowhere        | --weights: nowhere: no such file or run
measure mbv3_mini:smallest --device tpu --no-record | device: 'tpu' is not known
measure mbv3_mini:smallest --precision int4         | has fp32, int8, not 'int4'
measure mbv3_mini:smallest --precision bf16         | precision
measure mbv3_mini:smallest --resolution 7           | resolution: 7 px is too small
measure mbv3_mini:smallest --resolution 99999       | resolution: 99999 px is too large
measure G/empty                                     | empty: is empty
measure mbv3_mini:smallest --device torch-cuda      | torch-cuda
evaluate mbv3_mini:smallest                         | Missing option '--data'
evaluate mbv3_mini:smallest --data digits           | has no weights of its own
evaluate G/network.safetensors --data nowhere       | 'nowhere' is neither a folder nor one of
evaluate G/network.safetensors --data G/empty       | is neither a folder nor one of
evaluate G/network.safetensors --data G/folder      | folder: no class folders in it
evaluate G/network.safetensors --data G/one         | classes
evaluate G/network.safetensors --data G/images      | has 2 classes, the network 10
evaluate G/network.safetensors --data G/words       | no images in it
evaluate G/network.safetensors --data digits --split dev     | --split: 'dev' is not one of
evaluate nowhere --data digits --no-record          | 'nowhere' is no file
evaluate G/network.safetensors --data digits --mean 0.5      | --mean and --std go together
evaluate G/network.safetensors --data digits --mean 128 --std 128 | mean: 128: pixels are
evaluate G/network.safetensors --data digits --mean x --std 1 | --mean: 'x' is not a list of numbers
evaluate G/network.safetensors --data digits --mean 1,2 --std 1,1,1 | mean
evaluate G/network.safetensors --data digits --mean nan --std 1     | mean
evaluate G/network.safetensors --data digits --mean 0 --std 0       | std
evaluate G/network.safetensors --data digits --mean 0 --std -1      | std
evaluate G/network.safetensors --data digits --calibrate -1  | --calibrate
evaluate G/network.safetensors --data digits --calibrate 1   | calibration: needs 2 images or more
evaluate G/network.safetensors --data digits --estimator best | --estimator: 'best'
evaluate G/network.safetensors --data digits --batch 0       | --batch
evaluate G/network.safetensors --data digits --limit 0       | --limit
evaluate G/network.safetensors --data digits --on tpu        | on: 'tpu'
evaluate G/network.safetensors --data digits --task boxes    | task: 'boxes' is not known; there are
evaluate G/network.safetensors --data digits --task no.py:it | task: no.py:it: no file no.py here
evaluate G/network.safetensors --data digits --calibrate 9 --calibrate-data none | 'none'
evaluate G/network.safetensors --data digits --workers -1    | --workers
evaluate G/network.safetensors --data digits --max-unreadable 2   | --max-unreadable
evaluate G/network.safetensors --data digits --max-unreadable nan | max-unreadable
evaluate G/network.safetensors --data digits --resolution 5  | resolution: 5 px is too small
evaluate G/network.safetensors --data digits --weights G/none.pth       | none.pth: no such
evaluate G/network.safetensors --data digits --weights G/empty          | empty
evaluate G/network.safetensors --data digits --weights G/folder         | folder
evaluate G/network.safetensors --data digits --weights G/binary         | binary
evaluate mbv3_mini:largest --data digits --weights G/network.safetensors | network.safetensors
evaluate mbv3_mini:smallest --data digits --weights G/half.safetensors  | half.safetensors
evaluate mbv3_mini:smallest --data digits --weights G/half.pth          | half.pth
evaluate mbv3_mini:smallest --data digits --weights G/code.pth          | code.pth
evaluate G/run --data digits                        | run
export G/network.safetensors                        | Missing argument
export mbv3_mini:smallest n.onnx                    | has no weights of its own
export G/network.safetensors n.tflite --format tflite | 'tflite' is not known; there are onnx, pt2
export G/network.safetensors G/taken                | taken: exists already
export G/network.safetensors G/folder               | folder: exists already
export G/network.safetensors G/taken/n.onnx         | taken is not a folder
export G/network.safetensors n.onnx --weights G/binary | binary
export G/network.safetensors n.onnx --resolution 3  | resolution: 3 px is too small
export G/half.safetensors n.onnx                    | half.safetensors
export G/run n.onnx                                 | run
zoo nothing-like-this                               | 'nothing-like-this' is not published
zoo --download                                      | --download: name what to download
zoo --unverified                                    | --unverified: name what to download
zoo ofa-note8-22 --unverified                       | --unverified: goes with --download
zoo ofa-note8-22 --download                         | cannot be downloaded
zoo a b                                             | unexpected extra argument
convert mbv3_mini:smallest out                      | Missing option '--to'
convert mbv3_mini:smallest out --to tensorflow      | --to: 'tensorflow' is not one of
convert mbv3_mini:smallest G/taken --to onceforall  | taken: exists already
convert G/none out --to official                    | none
convert G/empty out --to official                   | empty: is empty
convert G/binary out --to official                  | binary
convert G/folder out --to official                  | folder
convert G/half.pth out --to official                | half.pth
convert G/code.pth out --to official                | code.pth
convert mbv3_mini:smallest out.yaml --to mmrazor    | mbv3_mini
convert mbv3_mini:smallest out --to official --family ofa_resnet50 | --family ofa_resnet50
convert mbv3_mini:smallest out --to official --family nothing      | --family nothing
convert mbv3_mini:smallest out --to onceforall --resolution 0      | resolution: 0
convert mbv3_mini:smallest out --to onceforall --resolution 4      | resolution: 4 px is too small
convert mbv3_mini:smallest out --to onceforall --resolution 5000   | 5000 px is too large
convert G/network.safetensors out --to arch-dict --weights G/network.safetensors | arch-dict
convert mbv3_mini:smallest out --to onceforall --weights G/none    | none
convert G/run/supernet.safetensors out --to arch-dict              | --to arch-dict
search                                              | Missing option '--accuracy'
search --accuracy G/none.npz                        | none.npz: no such file
search --accuracy G/empty                           | empty: not a predictor's file
search --accuracy G/binary                          | binary: not a predictor's file
search --accuracy G/half.npz                        | half.npz: not a predictor's file
search --accuracy G/code.pth                        | code.pth: refused
search --accuracy G/half.pth                        | half.pth: damaged
search --accuracy G/folder                          | folder: has no file <resolution>
search --accuracy G/list.json                       | list.json: not a table
search --accuracy G/bad.yaml                        | bad.yaml: not YAML
search --accuracy G/records.csv                     | records.csv: not a table of blocks
search --accuracy G/text.txt                        | text.txt: not a predictor's file
search --accuracy G/accuracy.npz --space nowhere    | --space: 'nowhere' is no family
search --accuracy G/accuracy.npz --space ofa_mbv3_w1.0 | is for mbv3_mini
search --accuracy G/accuracy.npz --space G/folder   | folder
search --accuracy G/accuracy.npz --limit macs       | --limit: 'macs' is not NAME=VALUE
search --accuracy G/accuracy.npz --limit macs=      | --limit macs: no value is given
search --accuracy G/accuracy.npz --limit macs=fast  | --limit macs: 'fast' is not a number
search --accuracy G/accuracy.npz --limit macs=nan   | --limit macs: 'nan' is not a finite number
search --accuracy G/accuracy.npz --limit macs=inf   | --limit macs: 'inf' is not a finite number
search --accuracy G/accuracy.npz --limit macs=-1M   | limit macs
search --accuracy G/accuracy.npz --limit macs=0     | limit macs
search --accuracy G/accuracy.npz --limit macs=1e999 | --limit macs
search --accuracy G/accuracy.npz --limit macs=5ms   | --limit macs: '5ms' is not a number with
search --accuracy G/accuracy.npz --limit macs=1M,2M | need --pareto
search --accuracy G/accuracy.npz --limit macs=1M...2M | a range is written LOW..HIGH
search --accuracy G/accuracy.npz --limit macs=2M..1M | exclude each other
search --accuracy G/accuracy.npz --limit macs=1M --limit macs=2M | given twice
search --accuracy G/accuracy.npz --limit latency=5ms | names no predictor
search --accuracy G/accuracy.npz --limit latency=G/none.npz:5ms | none.npz: no such file
search --accuracy G/latency.npz                     | predicts ms, of which the most is the worst
search --accuracy G/accuracy.npz --limit latency=G/accuracy.npz:70 | predicts %, not a time
search --accuracy G/accuracy.npz --limit latency=G/latency.npz:1MB | --limit latency: '1MB'
search --accuracy G/accuracy.npz --limit latency=G/latency.npz:1ns | --limit latency: '1ns'
search --accuracy G/accuracy.npz --limit latency=G/few.npz:1ms | --resolutions 20,24 takes
search --accuracy G/accuracy.npz --limit 'größe=5'  | --limit größe
search --accuracy G/accuracy.npz --limit =5         | --limit
search --accuracy G/accuracy.npz --resolutions 20,x | --resolutions: '20,x' is not a list
search --accuracy G/accuracy.npz --resolutions 20,, | --resolutions
search --accuracy G/accuracy.npz --resolutions 0    | --resolutions: '0'
search --accuracy G/accuracy.npz --resolutions -20  | --resolutions: '-20'
search --accuracy G/accuracy.npz --resolutions 4    | resolution: 4 px is too small
search --accuracy G/accuracy.npz --resolutions 9999 | resolution: 9999 px is too large
search --accuracy G/accuracy.npz --resolutions 21   | resolution 21
search --accuracy G/accuracy.npz --risk -1          | --risk: -1
search --accuracy G/accuracy.npz --risk nan         | --risk: nan
search --accuracy G/accuracy.npz --risk inf         | --risk: inf
search --accuracy G/accuracy.npz --method luck      | method: 'luck' is not known
search --accuracy G/accuracy.npz --evaluations 0    | evaluations: 0
search --accuracy G/accuracy.npz --evaluations -5   | evaluations: -5
search --accuracy G/accuracy.npz --evaluations many | Invalid value for '--evaluations'
search --accuracy G/accuracy.npz --seconds 0        | seconds: 0
search --accuracy G/accuracy.npz --seconds nan      | seconds: nan
search --accuracy G/accuracy.npz --seconds -1       | seconds: -1
search --accuracy G/accuracy.npz --seed -1          | --seed
search --accuracy G/accuracy.npz --seed 1.5         | Invalid value for '--seed'
search --accuracy G/accuracy.npz --pareto           | --pareto: no --limit
search --accuracy G/accuracy.npz --method nsga2     | method: 'nsga2'
search --accuracy G/accuracy.npz --out best.txt     | --out: best.txt
search --accuracy G/accuracy.npz --out G/taken      | taken: exists already
search --accuracy G/accuracy.npz --out best.json --pareto --limit macs=1M,2M | --out: best.json
search --accuracy G/accuracy.npz --check G/binary   | binary: not a predictor's file
predict                                             | Missing argument
predict G/accuracy.npz G/archs.csv                  | Missing option '--out'
predict G/none.npz G/archs.csv --out p.csv          | none.npz: no such file
predict G/binary G/archs.csv --out p.csv            | binary: not a predictor's file
predict G/accuracy.npz G/none.csv --out p.csv       | none.csv: no such file
predict G/accuracy.npz G/empty --out p.csv          | empty: is empty
predict G/accuracy.npz G/folder --out p.csv         | folder: is a folder
predict G/accuracy.npz G/utf16.csv --out p.csv      | utf16.csv: not text in UTF-8
predict G/accuracy.npz G/words.csv --out p.csv      | column 'kernel_sizes' is missing
predict G/accuracy.npz G/alien.csv --out p.csv      | alien.csv line 2
predict G/accuracy.npz G/twice.csv --out p.csv      | column 'arch' is there twice
predict G/accuracy.npz G/ragged.csv --out p.csv     | ragged.csv line 3
predict G/accuracy.npz G/predicted.csv --out p.csv  | has a column 'prediction' already
predict G/accuracy.npz G/archs.csv --out G/taken    | taken: exists already
fit accuracy G/records.csv --out p.npz              | Missing option '--space'
fit accuracy G/records.csv --space mbv3_mini        | Missing option '--out'
fit accuracy G/none.csv --space mbv3_mini --out p.npz        | none.csv: no such file
fit accuracy G/empty --space mbv3_mini --out p.npz           | empty: is empty
fit accuracy G/folder --space mbv3_mini --out p.npz          | folder: is a folder
fit accuracy G/binary --space mbv3_mini --out p.npz          | binary: not text in UTF-8
fit accuracy G/broken.jsonl --space mbv3_mini --out p.npz    | broken.jsonl
fit accuracy G/records.csv --space nowhere --out p.npz       | family: 'nowhere' is not known
fit accuracy G/records.csv --space G/folder --out p.npz      | folder
fit accuracy G/records.csv --space ofa_mbv3_w1.0 --out p.npz | records.csv line 2
fit accuracy G/records.csv --space mbv3_mini --out G/taken   | taken: exists already
fit accuracy G/records.csv --space mbv3_mini --out p.npz --metric top5 | 'top5'
fit accuracy G/records.csv --space mbv3_mini --out p.npz --covariates light | covariate 'light'
fit accuracy G/records.csv --space mbv3_mini --out p.npz --device phone | 'phone'
fit accuracy G/records.csv --space mbv3_mini --out p.npz --prior G/none.npz | none.npz: no such file
fit accuracy G/records.csv --space mbv3_mini --out p.npz --prior G/binary | binary: not a
fit accuracy G/records.csv --space mbv3_mini --out p.npz --test-fraction 0 | --test-fraction: 0.0
fit accuracy G/records.csv --space mbv3_mini --out p.npz --test-fraction 1.5 | --test-fraction: 1.5
fit accuracy G/records.csv --space mbv3_mini --out p.npz --test-fraction nan | --test-fraction: nan
fit accuracy G/records.csv --space mbv3_mini --out p.npz --seed -1 | --seed
fit accuracy G/few.csv --space mbv3_mini --out p.npz         | needs at least
fit accuracy G/same.csv --space mbv3_mini --out p.npz        | there is nothing to fit
fit accuracy G/nan.csv --space mbv3_mini --out p.npz         | nan.csv line 3
fit accuracy G/word.csv --space mbv3_mini --out p.npz        | word.csv line 3
fit accuracy G/above.csv --space mbv3_mini --out p.npz       | is not between 0 and 100
fit latency G/below.csv --space mbv3_mini --out p.npz        | below.csv line 3
fit latency G/records.csv --space mbv3_mini --out p.npz      | latency_ms
fit latency G/lat.csv --space mbv3_mini --out p.npz --source G/none.csv  | none.csv
fit latency G/lat.csv --space mbv3_mini --out p.npz --source G/lat.csv   | lat.csv
fit latency G/lat.csv --space mbv3_mini --out p.npz --source G/lat.csv:gpu | 'gpu'
fit latency G/lat.csv --space mbv3_mini --out p.npz --source G/lat.csv:latency_ms | is what
fit latency G/lat.csv --space mbv3_mini --out p.npz --metric gpu | 'gpu'
fit latency G/lat.csv --space mbv3_mini --out p.npz --device gpu | 'gpu'
fit latency G/lat.csv --space mbv3_mini --out p.npz --seed x     | --seed
fit latency G/lat.csv --space mbv3_mini --out p.npz --test-fraction -1   | --test-fraction: -1
records accuracy                                    | Missing argument
records accuracy none                               | none: no such run
records accuracy mbv3_mini --weights nowhere --data digits --out G/new | nowhere: no such checkpoint
records accuracy none --mean 0.5                    | --mean and --std go with --weights
records accuracy none --std 0.5                     | --mean and --std go with --weights
records accuracy none --prior nowhere               | none: no such run
records accuracy G/folder                           | folder
records accuracy G/taken                            | taken: no such run
records accuracy G/unfinished                       | unfinished: its training is not finished
records accuracy G/run --samples 1                  | --samples
records accuracy G/run --samples -1                 | --samples
records accuracy G/run --images 0                   | --images
records accuracy G/run --images -7                  | --images
records accuracy G/run --near fast                  | --near: 'fast' is not a number
records accuracy G/run --near 1M,-2M                | --near: '1M,-2M'
records accuracy G/run --near 1M,,2M                | --near
records accuracy G/run --near 1M --by joy           | --by: 'joy' is no file
records accuracy G/run --near 1M --by G/binary      | binary: not a predictor's file
records accuracy G/run --near 1M --all              | --near has no use
records accuracy G/run --data nowhere               | 'nowhere'
records accuracy G/run --data G/images              | has 2 classes now
records accuracy G/run --seed -1                    | seed
records accuracy G/run --out G/binary               | binary
records accuracy G/run --out G/folder               | folder
records accuracy G/run --on tpu                     | on: 'tpu'
records latency                                     | Missing argument
records latency nowhere                             | family: 'nowhere' is not known
records latency mbv3_mini --weights nowhere --out G/new | nowhere: no such checkpoint
records latency G/folder                            | folder
records latency mbv3_mini --device tpu              | device: 'tpu' is not known
records latency mbv3_mini --samples 0               | --samples
records latency mbv3_mini --samples 100000000000    | samples
records latency mbv3_mini --threads 0               | --threads
records latency mbv3_mini --batch 0                 | --batch
records latency mbv3_mini --precision fp8           | has fp32, int8, not 'fp8'
records latency mbv3_mini --error 0                 | --error
records latency mbv3_mini --error 5 --seconds 0     | --seconds
records latency mbv3_mini --resolutions x           | --resolutions: 'x' is not a list of pixels
records latency mbv3_mini --resolutions 4           | resolutions: 4
records latency mbv3_mini --resolutions 0           | resolution
records latency ofa_mbv3_w1.0 --resolutions -32     | resolution
records latency mbv3_mini --seed -1                 | seed
records latency mbv3_mini --out G/binary            | binary
records latency mbv3_mini --blocks --out G/taken    | taken: exists already
specialize                                          | Missing argument
specialize none --max-latency 5ms                   | none: no such run
specialize none --max-latency 5ms --prior nowhere   | none: no such run
specialize G/run                                    | limits: none given
specialize G/run --max-latency =5ms                 | --max-latency: =5ms: no such device
specialize G/run --max-latency soon                 | --max-latency: 'soon' is not a number
specialize G/run --max-latency 1MB                  | --max-latency: '1MB'
specialize G/run --max-latency 0ms                  | latency_ms: 0 is not above 0
specialize G/run --max-latency -5ms                 | latency_ms: -5 is not above 0
specialize G/run --max-latency nan                  | --max-latency: 'nan' is not a finite number
specialize G/run --max-macs 5ms                     | --max-macs: '5ms'
specialize G/run --max-macs 0                       | macs: 0 is not above 0
specialize G/run --max-params -1                    | params: -1 is not above 0
specialize G/run --max-activations 5ms              | --max-activations: '5ms'
specialize G/run --max-file 5ms                     | --max-file: '5ms'
specialize G/run --max-file 0                       | file_bytes: 0 is not above 0
specialize G/run --max-sram 5ms                     | --max-sram: '5ms'
specialize G/run --max-sram 64KiB                   | limit sram_bytes: onnxruntime-cpu does
specialize G/run --max-flash 5ms                    | --max-flash: '5ms'
specialize G/run --max-flash 64KiB                  | limit flash_bytes: onnxruntime-cpu does
specialize G/run --max-energy 5ms                   | --max-energy: '5ms'
specialize G/run --max-latency vela=5ms             | --max-latency: vela=5ms: no such device
specialize G/run --max-latency 5ms --device tpu     | device: 'tpu' is not known
specialize G/run --max-latency 5ms --threads 0      | --threads
specialize G/run --max-latency 5ms --batch 0        | --batch
specialize G/run --max-latency 5ms --precision fp1  | has fp32, int8, not 'fp1'
specialize G/run --max-latency 5ms --precisions fp1,fp2 | has fp32, int8, not 'fp1,fp2'
specialize mbv3_mini --max-latency 5ms --weights G/none --data digits | --weights needs --data
specialize mbv3_mini --max-latency 5ms --weights G/none --data digits --out G/f | no such checkpoint
specialize G/run --max-latency 5ms --mean 0.5 --std 0.5 | --mean and --std go with --weights
specialize G/run --max-latency 5ms --std 0.5        | --mean and --std go with --weights
specialize G/run --max-latency 5ms --device phone.yaml | phone.yaml
classify G/none.onnx G/a.png                        | none.onnx: no such file
classify G/network.safetensors G/a.png              | a.png: no such image
classify G/network.safetensors G/network.safetensors | is no exported file
classify G/network.safetensors G/a.png --top 0      | --top
devices all                                         | all
devices --device onnxruntime-cpu                    | --device
devices --ready yes                                 | yes
devices --ready --ready 1                           | 1
info mbv3_mini:smallest --profile torch-cpu         | does not tell what layers take
info mbv3_mini:smallest --profile nope              | device: 'nope' is not known
info mbv3_mini:smallest --profile onnxruntime-cpu --threads 0 | --threads
export G/network.safetensors n.onnx --precision int4 | precision: onnx has fp32, int8, not 'int4'
export G/network.safetensors n.onnx --precision int8 | --calibrate-data: int8 needs training images
export G/network.safetensors n.onnx --precision int8 --calibrate-data G/nowhere | nowhere
export G/network.safetensors n.onnx --calibrate 1 | --calibrate
specialize G/run --max-latency 5ms --samples 5      | --samples
specialize G/run --max-latency 5ms --images 0       | --images
specialize G/run --max-latency 5ms --risk -1        | --risk
specialize G/run --max-latency 5ms --risk nan       | risk
specialize G/run --max-latency 5ms --data nowhere   | 'nowhere'
specialize G/run --max-latency 5ms --seed -1        | seed
specialize G/run --max-latency 5ms --on tpu         | on: 'tpu'
specialize G/run --max-latency 5ms --out G/done     | exists already
specialize G/unfinished --max-latency 5ms           | unfinished: its training is not finished
demo --data imagenet --out d                        | imagenet
demo --budget soon --out d                          | --budget: 'soon' is not a number
demo --budget -1ms --out d                          | -1
demo --budget 1MB --out d                           | --budget: '1MB'
demo --out G/taken                                  | taken
train                                               | train: of what? Name images
train none.yaml                                     | none.yaml: no such file; recipes here
train G/folder                                      | folder
train G/empty                                       | empty
train G/binary                                      | binary
train G/list.json                                   | list.json
train G/bad.yaml                                    | bad.yaml
train G/tiny.yaml colour=red                        | colour
train G/tiny.yaml seed                              | 'seed'
train G/tiny.yaml =1                                | unknown key ''
train G/tiny.yaml seed=                             | seed
train G/tiny.yaml seed=one                          | seed: 'one'
train G/tiny.yaml seed=-1                           | seed
train G/tiny.yaml seed=1.5                          | seed
train G/tiny.yaml threads=0                         | threads
train G/tiny.yaml threads=-1                        | threads
train G/tiny.yaml batch_size=0                      | batch_size
train G/tiny.yaml batch_size=-4                     | batch_size
train G/tiny.yaml batch_size=1e9                    | batch_size
train G/tiny.yaml batch_size=[1]                    | batch_size
train G/tiny.yaml momentum=2                        | momentum
train G/tiny.yaml weight_decay=-1                   | weight_decay
train G/tiny.yaml weights=none.pth                  | none.pth: no such file
train G/tiny.yaml weights=[1]                       | weights
train G/tiny.yaml --from none.pth                   | none.pth: no such file
train G/tiny.yaml --from G/binary                   | binary
train any family=none.py:family                     | none.py
train any family=G/tiny.yaml:family                 | family
train G/tiny.yaml label_smoothing=2                 | label_smoothing
train G/tiny.yaml dropout=1.5                       | dropout
train G/tiny.yaml dropout=nan                       | dropout
train G/tiny.yaml precision=fp8                     | precision
train G/tiny.yaml family=mbv4                       | family: 'mbv4' is not known
train G/tiny.yaml resolutions=[]                    | resolutions
train G/tiny.yaml resolutions=[4]                   | resolutions
train G/tiny.yaml resolutions=12                    | resolutions
train G/tiny.yaml resolutions=[0]                   | resolution
train G/tiny.yaml resolutions=[12,x]                | resolutions
train G/tiny.yaml checkpoint_seconds=-1             | checkpoint_seconds
train G/tiny.yaml log_steps=0                       | log_steps
train G/tiny.yaml phases=[]                         | phases
train G/tiny.yaml phases.0.steps=0                  | steps: 0 is not above 0
train G/tiny.yaml phases.0.steps=two                | steps: 'two'
train G/tiny.yaml phases.9.steps=1                  | phases
train G/tiny.yaml phases.0.lr=fast                  | lr: 'fast' is not a number
train G/tiny.yaml phases.0.lr=-1                    | lr: -1
train G/tiny.yaml phases.0.lr=nan                   | lr: 'nan'
train G/tiny.yaml phases.0.lr=inf                   | lr: 'inf'
train G/tiny.yaml phases.0.rule=luck                | rule: 'luck'
train G/tiny.yaml phases.0.rule=sandwich phases.0.archs=1 | archs: 1; the sandwich rule
train G/tiny.yaml phases.0.archs=0                  | archs: 0
train G/tiny.yaml phases.0.kernel=0                 | kernel: 0
train G/tiny.yaml phases.0.warmup_epochs=1          | warmup_epochs
train data.name=G/words                             | no images in it
train small data.name=G/photos                      | the recipe photos is for these
train photos data.name=digits                       | the recipe small is for these
train G/tiny.yaml phases.0.depth=0                  | depth: 0
train G/tiny.yaml phases.0.open=3                   | open: 3
train G/tiny.yaml phases.0.open.kernel=0            | open: kernel: 0
train G/tiny.yaml phases.0.open.heads=2             | 'heads'
train G/tiny.yaml phases.0.expand=-1                | expand: -1
train G/tiny.yaml phases.0.width=0.5                | width
train G/tiny.yaml phases.0.own_images=perhaps       | own_images
train G/tiny.yaml phases.0.warmup=2                 | warmup: 2
train G/tiny.yaml phases.0.distil=-1                | distil: -1
train G/tiny.yaml phases.0.epochs=1                 | steps or epochs
train G/tiny.yaml phases.0.colour=red               | colour
train G/tiny.yaml data.name=nowhere                 | 'nowhere' is neither a folder nor one of
train G/tiny.yaml data.name=G/folder                | folder: no class folders in it
train G/tiny.yaml data.name=G/one                   | one class only
train G/tiny.yaml data.name=G/words                 | no images in it
train G/tiny.yaml data.name=cifar10                 | CIFAR-10 is not in
train G/tiny.yaml data.name=cifar10 data.root=G/folder | CIFAR-10 is not in G/folder
train G/tiny.yaml data.name=fashion-mnist data.root=G/folder | no Fashion-MNIST files in G/folder
train G/tiny.yaml data.name=fashion-mnist data.root=G/idx | idx/train-images-idx3-ubyte
train G/tiny.yaml data.validation=0                 | validation: 0
train G/tiny.yaml data.validation=100000            | validation: 100000
train G/tiny.yaml data.augmentation=blur            | augmentation: 'blur'
train G/tiny.yaml data.augmentation=flip+randaugment:99 | randaugment 99 is not from 0 to 30
train G/tiny.yaml data.augmentation=crop+shift      | crop and shift are one or the other
train G/tiny.yaml data.hold=some                    | hold: 'some'; there are auto, always, never
train G/tiny.yaml data.hold=1                       | hold: 1 is not a text
train G/tiny.yaml data.balance=classes              | balance: 'classes'; there are none, sampling
train G/tiny.yaml data.name=G/none-{0..3}.tar       | none-0.tar: no such file, one of 4
train G/tiny.yaml data.name=G/none-{3..0}.tar       | {3..0} is not a range
train G/tiny.yaml data.name=G/broken.tar            | broken.tar: not a .tar file, or damaged
train G/tiny.yaml data.name=G/shards                | shards/a.tar: no images in it
train G/tiny.yaml data.channels=2                   | channels
train G/tiny.yaml data.workers=-1                   | workers
train G/tiny.yaml data.unreadable=2                 | unreadable
train G/tiny.yaml data.mean=[0.5]                   | mean and std go together
train G/tiny.yaml data.mean=[0.5,0.5] data.std=[1,1] | mean: 2 values for 1 channels
train G/tiny.yaml data.mean=[0.5] data.std=[0]      | std
train G/tiny.yaml --out G/taken                     | taken
train G/tiny.yaml --out G/folder/x --resume         | folder/x
train G/tiny.yaml --out G/run                       | run
train G/tiny.yaml batch_size=8 --out G/run --resume | run
train G/tiny.yaml task=guessing                     | task: 'guessing' is not known
train G/tiny.yaml accumulate=0                      | accumulate: 0
train G/tiny.yaml accumulate=9                      | batch_size: 16 cannot be divided
train G/tiny.yaml recompute=perhaps                 | recompute: 'perhaps'
train G/tiny.yaml optimizer=lion                    | optimizer: 'lion'; there are sgd, adamw
train G/tiny.yaml lr_per=0                          | lr_per: 0
train G/tiny.yaml betas=[0.9]                       | betas: [0.9] are not two numbers
train G/tiny.yaml betas=[0.9,1.0]                   | betas: 1.0 is not
train G/tiny.yaml clip=0                            | clip: 0
train G/tiny.yaml ema=1                             | ema: 1
train G/tiny.yaml stochastic_depth=1                | stochastic_depth: 1
train G/tiny.yaml mixup=-1                          | mixup: -1
train G/tiny.yaml cutmix=nan                        | cutmix
train G/tiny.yaml sync_batch_norm=2                 | sync_batch_norm: 2 is not true or false
train G/tiny.yaml checkpoints=0                     | checkpoints: 0
train G/tiny.yaml validate_steps=0                  | validate_steps: 0
train G/tiny.yaml validate_archs=-1                 | validate_archs: -1
train G/tiny.yaml keep=all                          | keep: 'all'; there are last, best
train G/tiny.yaml tensorboard=yes,please            | tensorboard: 'yes,please'
train G/tiny.yaml phases.0.labels=0                 | labels: 0 leaves nothing to minimise
train G/tiny.yaml phases.0.labels=-1                | labels: -1
train G/tiny.yaml phases.0.divergence=beta          | divergence: 'beta'
train G/tiny.yaml phases.0.couple=[heads]           | couple: mbv3_mini has no 'heads'
train G/tiny.yaml phases.0.couple=[expand] phases.0.depth=1 | couple: 'expand' has no depth to
train G/tiny.yaml precision=tf32                    | precision: tf32 is of NVIDIA GPUs
train G/tiny.yaml phases.0.candidates=0             | candidates: 0
train G/tiny.yaml phases.0.attend=middle            | attend: 'middle'; there are best, worst
train G/tiny.yaml phases.0.part=tail                | part: 'tail'; there are all, head
train G/tiny.yaml phases.0.lr_last=2                | lr_last: 2
train finetune data.name=digits                     | is for `onceforall finetune NET`
train G/tiny.yaml --estimate --per-device 1         | --per-device
train G/tiny.yaml --estimate --per-device 5000      | --per-device: 5000 is more than the
train G/tiny.yaml --estimate --per-device 2 accumulate=4 | --per-device: 2 cannot be divided
train G/tiny.yaml --estimate --images 0             | --images
train G/tiny.yaml --estimate --bandwidth 0          | --bandwidth: 0 is not above 0
train G/tiny.yaml --estimate --bandwidth -1         | --bandwidth
train G/tiny.yaml --estimate --price-per-hour -1    | --price-per-hour
train G/tiny.yaml --estimate data.name=nowhere      | 'nowhere' is neither a folder nor one of
train G/tiny.yaml --estimate batch_size=100000      | batch_size: 100000 is more than
train G/tiny.yaml --price-per-hour 2                | --price-per-hour: 2 goes with --estimate
train G/tiny.yaml --per-device 4                    | --per-device: 4 goes with --estimate
train G/tiny.yaml --images 9                        | --images: 9 goes with --estimate
train G/tiny.yaml --bandwidth 9                     | --bandwidth: 9 goes with --estimate
finetune                                            | Missing argument 'NET'
finetune G/network.safetensors                      | Missing option '--data'
finetune mbv3_mini:smallest --data digits           | has no weights of its own
finetune G/none.json --data digits                  | 'G/none.json' is no file
finetune G/network.safetensors --data digits phases.1.rule=sandwich phases.1.archs=3 | archs: 3
finetune G/network.safetensors --data digits phases.1.open={all:2} | phases
finetune G/network.safetensors --data nowhere       | 'nowhere' is neither a folder nor one of
finetune G/network.safetensors --data G/one         | one class only
finetune G/network.safetensors --data digits --weights G/none.pth | none.pth: no such
finetune G/network.safetensors --data digits --weights G/half.pth | half.pth
finetune mbv3_mini:largest --data digits --weights G/network.safetensors | tensors: holds
finetune G/network.safetensors --data digits --weights G/unfinished | supernet.safetensors: no such
finetune G/network.safetensors --data digits data.channels=3 | channels: 3, and mbv3_mini
finetune mbv3_mini:smallest --data cifar10 --weights G/network.safetensors | CIFAR-10 is not in
finetune G/network.safetensors --data digits data.name=x | of fine-tuning --data says this
finetune G/network.safetensors --data digits family=x | of fine-tuning NET says this
finetune G/network.safetensors --data digits resolutions=[8] | of fine-tuning --resolution says this
finetune G/network.safetensors --data digits weights=x | of fine-tuning --weights says this
finetune G/network.safetensors --data digits colour=red | colour
finetune G/network.safetensors --data digits --epochs 0 | epochs: 0
finetune G/network.safetensors --data digits --epochs -1 | epochs: -1
finetune G/network.safetensors --data digits --epochs nan | epochs
finetune G/network.safetensors --data digits --epochs many | Invalid value for '--epochs'
finetune G/network.safetensors --data digits --resolution 4 | resolution: 4 px is too small
finetune G/network.safetensors --data digits --teacher G/none.safetensors | none.safetensors
finetune G/network.safetensors --data digits --teacher G/taken | taken
finetune G/network.safetensors --data digits phases.1.distil=1 | has no teacher
finetune G/network.safetensors --data digits --out G/taken | taken
finetune G/network.safetensors --data digits --out G/run | holds a run already
finetune G/network.safetensors --data digits --out G/run --resume | settings.json
finetune G/network.safetensors --data digits --out G/folder/x --resume | no run to resume
finetune G/network.safetensors --data digits batch_size=100000 | batch_size: 100000 is more than
report                                              | Missing argument
report none                                         | none: no such run
report G/taken                                      | taken: no such run
report G/folder                                     | folder: holds no run: no settings.json
report G/folder --profile                           | folder: holds no run: no settings.json
report G/run --out G/taken                          | taken: exists already; name another path
report G/run --out G/taken/page.html                | taken is not a folder
report G/run --out G/folder                         | folder: exists already
frobnicate                                          | No such command 'frobnicate'
--versions                                          | No such option
"""


ROWS = [
    tuple(part.strip() for part in line.rsplit(" | ", 1)) for line in CORPUS.strip().split("\n")
]
ROWS += [
    (f"info {'x' * 300}", "is no file, no published network"),  # longer than a name can be
    ("info 'two\nlines'", r"'two\nlines' is no file"),
    ("search --accuracy G/accuracy.npz --method 'a\nb'", r"method: 'a\nb' is not known"),
]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files: good ones for the rest of a command, and all kinds of bad ones."""
    root = tmp_path_factory.mktemp("given")
    (root / "empty").touch()
    (root / "folder").mkdir()
    (root / "binary").write_bytes(bytes(range(255, -1, -1)))
    for name, text in {
        "text.txt": "hello",
        "list.json": "[1, 2]",
        "bad.yaml": "a: [1",
        "other.json": json.dumps({**SPACE.smallest().to_dict(), "family": "nowhere"}),
        "short.json": '{"family": "mbv3_mini", "resolution": 28}',
        "taken": "mine",
        "tiny.yaml": RECIPE,
        "broken.jsonl": '{"arch"',
        "words.csv": "a,b\n1,2\n",
        "twice.csv": "arch,arch\n",
        "alien.csv": f"arch,top1\n{families.get('ofa_resnet50').space.smallest()},70\n",
    }.items():
        (root / name).write_text(text)
    (root / "utf16.csv").write_text("arch\n", encoding="utf-16")
    rng = np.random.default_rng(0)
    archs = SPACE.sample(rng, 12)
    top1 = [80.0 + i for i in range(12)]
    for name, column, values in (
        ("archs.csv", "note", ["x"] * 12),
        ("predicted.csv", "prediction", top1),
        ("records.csv", "top1", top1),
        ("few.csv", "top1", top1[:2]),
        ("same.csv", "top1", [80.0] * 12),
        ("nan.csv", "top1", [80.0, "nan", *top1[2:]]),
        ("word.csv", "top1", [80.0, "high", *top1[2:]]),
        ("above.csv", "top1", [80.0, 180.0, *top1[2:]]),
        ("lat.csv", "latency_ms", top1),
        ("below.csv", "latency_ms", [80.0, -1.0, *top1[2:]]),
    ):
        write_csv(root / name, SPACE, archs[: len(values)], {column: values})
    lines = (root / "records.csv").read_text().splitlines()
    (root / "ragged.csv").write_text("\n".join([*lines[:2], lines[2] + ",1", *lines[3:]]) + "\n")
    tables = {
        "accuracy.npz": Table.build(SPACE, lambda p: p.expand + p.kernel, name="top1", unit="%"),
        "latency.npz": Table.build(SPACE, lambda p: 0.1 * p.kernel, name="latency", unit="ms"),
        "few.npz": Table.build(SPACE.at(SPACE.resolution[:2]), lambda p: 0.1, unit="ms"),
    }
    for name, table in tables.items():
        Additive(table).save(root / name)
    family = families.get(FAMILY, in_channels=1)
    arch = family.space.smallest()
    save_network(root / "network.safetensors", family.build(arch), family, arch, {})
    torch.save({"a": torch.zeros(100)}, root / "whole.pth")
    (root / "code.pth").write_bytes(pickle.dumps(Path("x")))
    for name, whole in (
        ("half.safetensors", "network.safetensors"),
        ("half.npz", "latency.npz"),
        ("half.pth", "whole.pth"),
    ):
        data = (root / whole).read_bytes()
        (root / name).write_bytes(data[: len(data) // 2])
    for folder in ("images/a", "images/b", "one/a"):
        (root / folder).mkdir(parents=True)
        for i in range(6):
            Image.new("RGB", (20, 20), (i, i, i)).save(root / folder / f"{i}.png")
    for folder in ("photos/a", "photos/b"):
        (root / folder).mkdir(parents=True)
        for i in range(6):
            Image.new("RGB", (90, 80), (i, i, i)).save(root / folder / f"{i}.png")
    for folder in ("words/a", "words/b"):
        (root / folder).mkdir(parents=True)
        (root / folder / "readme.txt").write_text("no image")
    (root / "broken.tar").write_bytes(b"no tar" * 200)
    (root / "shards").mkdir()
    (root / "shards" / "a.tar").write_bytes(bytes(10240))
    (root / "idx").mkdir()
    (root / "idx" / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03")
    (root / "unfinished").mkdir()
    (root / "unfinished" / "settings.json").write_text("{}")
    (root / "done" / "5ms").mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        words = ["train", str(root / "tiny.yaml"), "--out", str(root / "run")]
        patch.setattr(sys, "argv", ["onceforall", *words])
        cli.main()
    return root


def snapshot(root: Path) -> dict[str, str]:
    """Every file of a folder, and a digest of what is in it."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else ""
        for path in sorted(root.rglob("*"))
    }


@pytest.fixture(scope="module")
def before(given: Path) -> dict[str, str]:
    return snapshot(given)


@pytest.mark.parametrize(("line", "said"), ROWS)
def test_a_mistake_is_one_line(
    line: str,
    said: str,
    given: Path,
    before: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    words = [word.replace("G/", f"{given}/") for word in shlex.split(line)]
    monkeypatch.setattr(sys, "argv", ["onceforall", *words])
    monkeypatch.setenv("ONCEFORALL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ONCEFORALL_ZOO", "http://127.0.0.1:9")
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    status = 0
    try:
        cli.main()
    except SystemExit as end:
        status = int(end.code or 0)
    shown = capfd.readouterr()
    problems = []
    if status != 2:
        problems.append(f"status {status}")
    if len(shown.err.splitlines()) != 1 or not shown.err.startswith(OUT):
        problems.append(f"{len(shown.err.splitlines())} lines")
    if said.replace("G/", f"{given}/") not in shown.err:
        problems.append("does not say it")
    if shown.out:
        problems.append("prints")
    if list(work.iterdir()):
        problems.append("writes")
    if snapshot(given) != before:
        problems.append("changes what is given")
    assert not problems, shown.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")
@pytest.mark.parametrize(
    "words",
    [
        ["info", "locked"],
        ["search", "--accuracy", "locked"],
        ["train", "locked"],
        ["evaluate", "locked", "--data", "digits"],
        ["convert", "locked", "out", "--to", "official"],
    ],
)
def test_a_file_that_may_not_be_read(
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "locked").write_text("{}")
    (tmp_path / "locked").chmod(0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["onceforall", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    error = capfd.readouterr().err
    assert (error.startswith(OUT), error.count("\n"), "locked" in error) == (True, 1, True)


def commands(group: Any, above: str = "") -> dict[str, list[str]]:
    """Each command with its options, as they are typed."""
    found: dict[str, list[str]] = {}
    for name, command in group.commands.items():
        words = f"{above} {name}".strip()
        if hasattr(command, "commands"):
            found |= commands(command, words)
        else:
            found[words] = [p.opts[-1] for p in command.params if p.param_type_name == "option"]
    return found


def test_every_command_and_every_option_is_in_the_corpus() -> None:
    lines = [line for line, _ in ROWS]
    assert len(set(lines)) == len(lines) > 300
    for command, options in commands(typer.main.get_command(cli.app)).items():
        mine = [line for line in lines if line.startswith(command)]
        assert len(mine) > 3, command
        for option in options:
            if option not in ("--json", "--help"):
                assert any(f"{option} " in f"{line} " for line in mine), (command, option)


def test_every_setting_of_training_is_in_the_corpus() -> None:
    lines = " ".join(line for line, _ in ROWS if line.startswith("train"))
    for settings, prefix in ((Settings, ""), (PhaseSettings, "phases.0."), (Source, "data.")):
        for field in dataclasses.fields(settings):
            if field.name not in ("phases", "data", "name"):
                assert f" {prefix}{field.name}=" in lines, field.name
