# For node-gyp's users; everything is decided in CMakeLists.txt.
{ 'targets': [{ 'target_name': 'addon', 'type': 'none', 'actions': [{
    'action_name': 'cmake', 'message': 'Building the native code with CMake',
    'inputs': ['CMakeLists.txt'],
    'outputs': ['<(PRODUCT_DIR)/never_made'],  # so it always runs; the build tool decides what is stale
    'action': ['node', 'native/build.cjs', '--config=<(CONFIGURATION_NAME)', '--out=<(PRODUCT_DIR)'] }] }] }
