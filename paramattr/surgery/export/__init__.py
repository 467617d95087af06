"""A selection in the forms that other tools take."""

from paramattr.surgery.export.lora import lora_config as lora_config
from paramattr.surgery.export.masks import masks as masks
from paramattr.surgery.export.masks import pruning_masks as pruning_masks
from paramattr.surgery.export.shira import shira_config as shira_config
from paramattr.surgery.export.shira import train_only_selected as train_only_selected
from paramattr.surgery.export.task_vectors import task_adapter as task_adapter
from paramattr.surgery.export.task_vectors import task_vector as task_vector
