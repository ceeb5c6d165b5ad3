"""All private names of Keras that are used here, each behind a public name.

Checked on Keras 3.13.2 and 3.15.1 by `tests/keras_internals_test.py`, which
says what to change if a version of Keras changes one of them.

| file | private names of Keras |
|---|---|
| `layers` | `_flatten_layers`, `_layers`, `_trainable_variables`, `_non_trainable_variables`, `_metrics`, `_seed_generators`, `_tracker`, `_call_signature` and similar, `_get_call_context`, `_build_shapes_dict`, `_kernel`, `_embeddings`, `_query_dense` and similar, `_compute_carry_and_output_fused`, `Variable._layout`, `in_stateless_scope`, `_initialized`, `_obj_type` |
| `functional_graphs` | `Functional`, `_functional`, `_inputs_struct`, `_nodes_by_depth`, `_operations`, `_run_through_graph`, `_keras_history`, `compute_output_spec` |
| `optimizer_state` | `_iterations`, `_learning_rate`, `_variables`, `_tracker`, `_trainable_variables`, `_model_variables_moving_average`, `_backend_update_step`, the lists of slots |
| `trainer` | `_initial_epoch`, `_compile_config`, `_compile_metrics`, `_compute_loss`, `_distribute_strategy`, `_symbolic_build`, `_default_save_signature`, `_jax_state`; what callbacks remember |
| `quantization` | `_is_quantized`, `_kernel`, `_embeddings`, `quantized_kernel`, `kernel_scale`, `kernel_zero`, `g_idx`, `awq_scales`, `is_gptq_calibrated`, `is_awq_calibrated`, `_int4_block_size`, `_int4_pack_axis` and similar, `original_kernel_shape`, `kernel_shape`, `_orig_input_dim`, `_adjust_scale_for_dequant` |
| `saving` | `global_state`, `SafeModeScope`, `global_seed_generator`, `get_input_signature`, `make_tf_tensor_spec`, `patch_tf2onnx` |
"""  # noqa: E501
